#!/usr/bin/env python3
# ruff: noqa
# fmt: off
"""Static GPU code quality report for OpenCL C kernels; needs no GPU.

Compiles a rendered .cl file for AMD, NVIDIA and Intel GPUs with offline compilers and prints,
per target and kernel: registers, spills, local memory, occupancy and the instruction mix of the
hottest loop (the innermost natural loop with most FMAs).

  AMD gfx*    clang -> assembly                            apt: clang-19 libclc-15 (llvm-19: --mca)
  NVIDIA sm_* clang -> LLVM IR -> llc PTX -> ptxas -> SASS apt: clang-19 llvm-19 libclc-15
                                                           pip: nvidia-cuda-nvcc nvidia-cuda-nvdisasm
  Intel       ocloc (the real IGC of driver 22.43)         apt: intel-opencl-icd

Any libclc's bitcode works (--clc DIR). apt's libclc-19 and -22 evict mesa-opencl-icd (rusticl),
which needs libclc-15; so use libclc-15, or unpack a newer one with dpkg -x.

Columns: regs (AMD VGPR/SGPR; Intel GRF and SIMD width), spill (AMD registers, else bytes), scr =
private memory bytes, LDS bytes, occupancy = resident waves (AMD per SIMD, NVIDIA per SM, Intel
threads per subslice) / most possible (work-groups); then for the hottest loop: instructions, FMAs
per work-item, FMA instructions' share, FMAs per instruction (above 1: packed or dual issue),
local and global reads by width; bar/br/sync = barriers, branches, waits; outer+N = instructions
of the enclosing loop outside the hot one; FLAT = memory operations of unknown address space.

  isa_report.py conv.cl -D TM=8 -D TN=8 -t gfx1100,sm_86,acm-g10
Exit status: 0, or 1 if a target failed, or 2 if --fail-spill / --min-fma was violated.
"""
import argparse
import glob
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field

# AMD: VGPRs per SIMD lane, allocation granule, waves/SIMD, wave size, SIMDs and LDS bytes per CU/WGP
AMD = {
    "gfx906": (256, 4, 10, 64, 4, 65536), "gfx908": (512, 8, 8, 64, 4, 65536),
    "gfx90a": (512, 8, 8, 64, 4, 65536), "gfx942": (512, 8, 8, 64, 4, 65536),
    "gfx1010": (1024, 8, 20, 32, 4, 131072), "gfx1030": (1024, 16, 16, 32, 4, 131072),
    "gfx1100": (1536, 24, 16, 32, 4, 131072), "gfx1101": (1536, 24, 16, 32, 4, 131072),
    "gfx1102": (1024, 16, 16, 32, 4, 131072), "gfx1151": (1536, 24, 16, 32, 4, 131072),
    "gfx1200": (1536, 24, 16, 32, 4, 131072), "gfx1201": (1536, 24, 16, 32, 4, 131072),
}
# NVIDIA: threads/SM, shared bytes/SM, work-groups/SM, shared bytes reserved per work-group
NV = {
    "sm_50": (2048, 65536, 32, 0), "sm_61": (2048, 98304, 32, 0), "sm_70": (2048, 98304, 32, 0),
    "sm_75": (1024, 65536, 16, 0), "sm_80": (2048, 167936, 32, 1024), "sm_86": (1536, 102400, 16, 1024),
    "sm_89": (1536, 102400, 24, 1024), "sm_90": (2048, 233472, 32, 1024),
    "sm_100": (2048, 233472, 32, 1024), "sm_120": (1536, 102400, 24, 1024),
}
# Intel: EUs per (sub)slice or Xe core, threads/EU at 128 GRF, SLM bytes, work-groups
INTEL = {
    "skl": (8, 7, 65536, 16), "icllp": (8, 7, 65536, 16), "tgllp": (16, 7, 131072, 16), "adl-p": (16, 7, 131072, 16),
    "acm-g10": (16, 8, 131072, 32), "acm-g11": (16, 8, 131072, 32), "pvc": (8, 8, 131072, 32),
}
DEFAULT = "gfx906,gfx90a,gfx942,gfx1030,gfx1100,gfx1201,sm_75,sm_86,sm_90,sm_120,skl,tgllp,acm-g10"


class ToolError(RuntimeError):
    pass


def sh(cmd, env=None, cwd=None):
    try:
        r = subprocess.run(cmd, capture_output=True, text=True, errors="replace", env=env, cwd=cwd)
    except FileNotFoundError:
        raise ToolError(f"{cmd[0]} not found") from None
    if r.returncode:
        raise ToolError(f"{' '.join(map(str, cmd[:4]))} ...: exit {r.returncode}\n{(r.stderr + r.stdout).strip()[:1500]}")
    return r.stdout + r.stderr


def find(name, *globs):
    pats = [*globs]
    for p in sys.path:
        if p.endswith("-packages"):
            pats += [f"{p}/nvidia/*/bin/{name}"]
    for pat in pats:
        hits = sorted(glob.glob(pat))
        if hits:
            return hits[-1]
    hit = shutil.which(name)
    if not hit:
        raise ToolError(f"{name} not found")
    return hit


@dataclass
class Block:
    label: str
    insts: list = field(default_factory=list)
    succs: list = field(default_factory=list)      # labels, or None for "falls through"


@dataclass
class Kernel:
    target: str
    name: str
    regs: str = "?"
    spill: int = 0                                   # bytes or registers: non-zero is bad
    scratch: int = 0
    lds: int = 0
    occ: str = ""
    blocks: list = field(default_factory=list)
    note: str = ""


# ------------------------------------------------------------------ control flow
def natural_loops(blocks):
    """List of (header, set of block indices) of a CFG given in layout order."""
    idx = {b.label: i for i, b in enumerate(blocks)}
    n = len(blocks)
    succ = [[(i + 1) if s is None else idx[s] for s in b.succs if (s is None and i + 1 < n) or s in idx]
            for i, b in enumerate(blocks)]
    seen, todo = {0}, [0]
    while todo:
        for s in succ[todo.pop()]:
            if s not in seen:
                seen.add(s)
                todo.append(s)
    pred = [[] for _ in range(n)]
    for i in seen:
        for s in succ[i]:
            pred[s].append(i)
    dom = {i: set(seen) for i in seen}
    dom[0] = {0}
    changed = True
    while changed:
        changed = False
        for i in sorted(seen - {0}):
            new = set.intersection(*(dom[p] for p in pred[i])) | {i}
            if new != dom[i]:
                dom[i], changed = new, True
    loops = {}
    for i in seen:
        for h in succ[i]:
            if h in dom[i]:
                body, todo = {h, i}, [i] if i != h else []
                while todo:
                    for p in pred[todo.pop()]:
                        if p not in body:
                            body.add(p)
                            todo.append(p)
                loops.setdefault(h, set()).update(body)
    return sorted(loops.items(), key=lambda kv: len(kv[1]))


# ------------------------------------------------------------------ instruction classes
def width(m, table, default):
    for pat, w in table:
        if re.search(pat, m):
            return w
    return default


def classify_amd(t):
    """(kind, weight): weight = FMAs per lane, or bytes per lane of a memory access."""
    op = t.split()[0]
    fma = len(re.findall(r"\bv_(?:dual_)?(?:fma|fmac|mac|mad|fmaak|fmamk|madak|madmk)_(?:legacy_)?f(?:16|32|64)", t))
    fma += 2 * len(re.findall(r"\bv_pk_(?:fma|fmac)_f", t))
    if fma:
        return "fma", fma
    if re.match(r"ds_(read|load)", op):
        w = width(op, [(r"b128|2(st64)?_b64", 16), (r"b96", 12), (r"b64|2(st64)?_b32", 8), (r"[ui]8", 1), (r"[ui]16", 2)], 4)
        return "lds_ld", w
    if re.match(r"ds_(write|store)", op):
        return "lds_st", 0
    if op.startswith("scratch_") or ("buffer_" in op and "offset:" in t and "s[0:3]" in t):
        return "spill", 0
    if op.startswith("flat_"):
        return "flat", 0
    if re.match(r"(global|buffer)_load|s_(buffer_)?load", op):
        if op.startswith("s_"):
            return "other", 0
        w = width(op, [(r"x4|b128", 16), (r"x3|b96", 12), (r"x2|b64", 8), (r"[us]byte|[ui]8", 1), (r"short|16", 2)], 4)
        return "gl_ld", w
    if re.match(r"(global|buffer)_store", op):
        return "gl_st", 0
    if "barrier" in op:
        return "bar", 0
    if re.match(r"s_(waitcnt|wait_|delay_alu|nop|clause|sleep|inst_prefetch|set_inst_prefetch)", op):
        return "sync", 0
    if re.match(r"s_c?branch", op):
        return "br", 0
    return "other", 0


def classify_nv(t):
    op = re.sub(r"^@!?U?P\w+\s+", "", t).split()[0]
    w = width(op, [(r"\.128", 16), (r"\.64", 8), (r"\.U?S?16", 2), (r"\.U?S?8", 1)], 4)
    if re.match(r"(FFMA|DFMA)", op):
        return "fma", 2 if op.startswith("FFMA2") else 1
    if op.startswith("HFMA2") and "-RZ, RZ" not in t:
        return "fma", 2
    for pat, kind in ((r"LDSM?\b|LDS\.", "lds_ld"), (r"STS", "lds_st"), (r"LDL|STL", "spill"), (r"LDG", "gl_ld"),
                      (r"STG", "gl_st"), (r"LD\b|LD\.|ST\b|ST\.", "flat"), (r"BAR", "bar"), (r"NOP|DEPBAR", "sync"),
                      (r"BRA|BSYNC|BSSY|EXIT|CALL|WARPSYNC", "br")):
        if re.match(pat, op):
            return kind, w
    return "other", 0


def classify_intel(t):
    t = re.sub(r"^\([^)]*\)\s*", "", t)
    op = t.split()[0]
    simd = re.search(r"\((\d+)\|", t)
    lanes = int(simd.group(1)) if simd else 1
    if op == "mad" and re.search(r":h?f\b", t) and lanes > 1:
        return "fma", 1
    msg = re.match(r"(load|store)\.(slm|ugm|tgm|ugml)\.d\d+(?:u\d+)?(?:x(\d+))?", op)
    if msg:                                                   # LSC: Xe-HPG and later
        if "scratch" in t or "bti[251]" in t or "[r0" in t:
            return "spill", 0
        kind = ("lds" if msg.group(2) == "slm" else "gl") + ("_ld" if msg.group(1) == "load" else "_st")
        return kind, 4 * int(msg.group(3) or 1)
    if op.startswith("send"):
        if "scratch" in t:
            return "spill", 0
        rd = re.search(r"(untyped|byte|oword|a64|hword).*?(read|gather|write|scatter)(?: with (\w+))?", t)
        desc = re.findall(r"0x([0-9A-Fa-f]{7,8})\b", t)
        if rd:
            slm = bool(desc) and desc[-1].upper().endswith("FE")      # binding table index 254
            load = rd.group(2) in ("read", "gather")
            return ("lds" if slm else "gl") + ("_ld" if load else "_st"), 4 * len(rd.group(3) or "x")
        return ("bar", 0) if re.search(r"barrier|gtwy|gateway", t) else ("other", 0)
    if op.startswith("sync") or op == "nop":
        return "sync", 0
    if re.match(r"(goto|join|while|jmpi|brd|brc|if|else|endif|call|ret)", op):
        return "br", 0
    return "other", 0


def mix(insts, classify):
    m = {"total": 0, "fma_inst": 0, "fma": 0, "lds": {}, "gl": {}}
    for t in insts:
        k, w = classify(t)
        m["total"] += 1
        m[k + "#"] = m.get(k + "#", 0) + 1
        if k == "fma":
            m["fma_inst"] += 1
            m["fma"] += w
        elif k in ("lds_ld", "gl_ld"):
            d = m["lds" if k == "lds_ld" else "gl"]
            d[w] = d.get(w, 0) + 1
    return m


def hot_loop(k, classify):
    loops = [(h, body, mix([t for b in sorted(body) for t in k.blocks[b].insts], classify))
             for h, body in natural_loops(k.blocks)]
    loops = [x for x in loops if x[2]["fma"]]
    inner = [x for x in loops if not any(y is not x and y[1] < x[1] for y in loops)]
    if not inner:
        return None
    hot = max(inner, key=lambda x: x[2]["fma"])
    outer = [x for x in loops if x[1] > hot[1]]
    hot[2]["rest"] = min(outer, key=lambda x: len(x[1]))[2] if outer else None
    return hot


# ------------------------------------------------------------------ back ends
def clang_args(a, triple, cpu, bc):
    return [a.clang, "-x", "cl", f"-cl-std={a.cl_std}", "-target", triple, cpu, "-O3", "-Xclang",
            "-finclude-default-header", "-nogpulib", "-Xclang", "-mlink-builtin-bitcode", "-Xclang", bc,
            "-Wno-linker-warnings", *a.defs, *a.opt]


def wg_sizes(a, tmp):
    """{kernel: work-items} of kernels with reqd_work_group_size, and the IR attribute as a list."""
    out = f"{tmp}/front.ll"
    sh([a.clang, "-x", "cl", f"-cl-std={a.cl_std}", "-target", "spir64-unknown-unknown", "-Xclang",
        "-finclude-default-header", "-Xclang", "-disable-llvm-passes", "-emit-llvm", "-S", *a.defs, *a.opt, a.file, "-o", out])
    ir = open(out).read()
    md = dict(re.findall(r"^(!\d+) = !\{(.*)\}$", ir, re.M))
    return {n: [int(x) for x in re.findall(r"i32 (\d+)", md[r])]
            for n, r in re.findall(r"^define .*@([\w.$]+)\(.*!reqd_work_group_size (!\d+)", ir, re.M)}


def items(a, name):
    x, y, z = a.wgs.get(name, [a.wg, 1, 1])
    return x * y * z


def groups(*limits):
    return max(0, min(limits))


def amd(a, tgt, tmp):
    out = f"{tmp}/{tgt}.s"
    bc = f"{a.clc}/amdgcn--amdhsa.bc"
    a.log += sh(clang_args(a, "amdgcn-amd-amdhsa", f"-mcpu={tgt}", bc) + ["-S", a.file, "-o", out])
    text = open(out).read()
    meta = text[text.index(".amdgpu_metadata"):]
    res = []
    for chunk in re.split(r"\n  - (?=\.)", meta)[1:]:
        def g(key, d="0"):
            m = re.search(rf"(?:^|\n    )\.{key}:\s+(\S+)", chunk)
            return m.group(1) if m else d
        name = g("name")
        k = Kernel(tgt, name, lds=int(g("group_segment_fixed_size")), scratch=int(g("private_segment_fixed_size")))
        k.spill = int(g("vgpr_spill_count")) + int(g("sgpr_spill_count"))
        vg, ag = int(g("vgpr_count")), int(g("agpr_count"))
        k.regs = f"{vg}v{'+%da' % ag if ag else ''}/{g('sgpr_count')}s"
        wg = items(a, name)
        if tgt in AMD:
            total, gran, maxw, wave, simds, ldsb = AMD[tgt]
            vg = max(vg, 1)
            w = min(maxw, total // (-(-vg // gran) * gran))
            per = -(-wg // wave)
            n = groups(simds * w // per, ldsb // max(512, -(-k.lds // 512) * 512), simds * maxw // per)
            k.occ = f"{n * per / simds:g}/{maxw} ({n}wg)"
        body = text[re.search(rf"^{re.escape(name)}:", text, re.M).end():]
        body = body[:body.index(".Lfunc_end")]
        cur = Block("entry")
        k.blocks = [cur]
        for line in body.split("\n"):
            line = line.split(";")[0].rstrip()
            lab = re.match(r"(\.L\w+):", line)
            if lab:
                if cur.insts or cur.label == "entry":
                    if not cur.succs or cur.succs[-1] != "STOP":
                        cur.succs.append(None)
                    cur = Block(lab.group(1))
                    k.blocks.append(cur)
                else:                                        # two labels on one block
                    cur.succs.append(None)
                    cur = Block(lab.group(1))
                    k.blocks.append(cur)
                continue
            if not re.match(r"\s+[a-z]", line):
                continue
            t = line.strip()
            cur.insts.append(t)
            br = re.match(r"s_(c?)branch\S*\s+(\.L\w+)", t)
            if br:
                cur.succs.append(br.group(2))
            if br or t.startswith("s_endpgm"):
                if (br and br.group(1)):
                    cur.succs.append(None)
                cur.succs.append("STOP")
                cur = Block(f"anon{len(k.blocks)}")
                k.blocks.append(cur)
        res.append(k)
    return res


def nvidia(a, tgt, tmp):
    ir, ptx, cubin = (f"{tmp}/{tgt}.{e}" for e in ("ll", "ptx", "cubin"))
    sm = int(re.sub(r"\D", "", tgt))
    front = tgt if sm <= 90 else "sm_90"                     # LLVM 19 stops at sm_90; ptxas re-targets, as the driver's JIT does
    bc = f"{a.clc}/nvptx64--nvidiacl.bc"
    a.log += sh(clang_args(a, "nvptx64-nvidia-nvcl", f"-march={front}", bc) + ["-emit-llvm", "-S", a.file, "-o", ir])
    sh([a.llc, "-O3", f"-mcpu={front}", "-mattr=+ptx78", ir, "-o", ptx])
    text = open(ptx).read()
    for name, dims in a.wgs.items():
        # LLVM 19 drops reqd_work_group_size for NVPTX: put it back, as NVIDIA's own front end does
        text = re.sub(rf"(\.entry {re.escape(name)}\([^)]*\)\s*)\n\{{",
                      lambda m: f"{m.group(1)}\n.reqntid {', '.join(map(str, dims))}\n{{", text)
    open(ptx, "w").write(text)
    info = sh([a.ptxas, f"-arch={tgt}", "-O3", "-v", *a.ptxas_opt, ptx, "-o", cubin])
    a.log += "".join(x + "\n" for x in info.split("\n") if "warning" in x)
    try:
        sass = sh([a.nvdisasm, "-c", cubin])
    except ToolError as e:                                   # missing, or too new: 13.2+ refuses sm_50 .. sm_72
        sass = ""
        a.log += str(e) + "\n"
    res = []
    for m in re.finditer(r"Compiling entry function '([^']+)'.*\n(?:.*Function properties.*\n)?(.*bytes stack frame.*)\n(.*Used.*)", info):
        name, frame, used = m.groups()
        stack, sst, sld = map(int, re.findall(r"(\d+) bytes", frame))
        regs = int(re.search(r"Used (\d+) registers", used).group(1))
        smem = re.search(r"(\d+) bytes smem", used)
        k = Kernel(tgt, name, regs=str(regs), spill=sst + sld, scratch=stack, lds=int(smem.group(1)) if smem else 0)
        if k.lds > 49152:
            k.note += " LDS>48K: NVIDIA OpenCL rejects"
        wg = items(a, name)
        if tgt in NV:
            thr, sb, maxwg, rsv = NV[tgt]
            warps = -(-wg // 32)
            n = groups(65536 // (-(-regs // 8) * 256) // warps, sb // max(1, k.lds + rsv), thr // 32 // warps, maxwg)
            k.occ = f"{n * warps}/{thr // 32} ({n}wg)"
        sec = re.search(rf"^\.text\.{re.escape(name)}:(.*?)(?=^//-----|\Z)", sass, re.M | re.S)
        sec = sec.group(1) if sec else ""
        k.note += "" if sec else " no SASS"
        cur = Block("entry")
        k.blocks = [cur]
        for line in sec.split("\n"):
            lab = re.match(r"([.$]\w[.$\w]*):", line)      # .L_x_3, or $kernel$callee
            if lab:
                if not cur.succs or cur.succs[-1] != "STOP":
                    cur.succs.append(None)
                cur = Block(lab.group(1))
                k.blocks.append(cur)
                continue
            ins = re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(.*?)\s*;", line)
            if not ins:
                continue
            t = ins.group(1)
            cur.insts.append(t)
            pred = t.startswith("@")
            op = re.sub(r"^@!?U?P\w+\s+", "", t)
            if re.match(r"(BRA|EXIT|RET|BRX|JMP|CALL)", op):
                for lab in re.findall(r"`\(([.$\w]+)\)", op):
                    cur.succs.append(lab)
                if pred or op.startswith("CALL") or re.match(r"BRA\S* !?U?P\w+,", op):
                    cur.succs.append(None)
                cur.succs.append("STOP")
                cur = Block(f"anon{len(k.blocks)}")
                k.blocks.append(cur)
        res.append(k)
    return res


def intel(a, tgt, tmp):
    d = f"{tmp}/{tgt}"
    os.makedirs(d)
    env = dict(os.environ, IGC_ShaderDumpEnable="1", IGC_DumpToCustomDir=d)
    if a.intel_root:
        lib = f"{a.intel_root}/usr/lib/x86_64-linux-gnu"
        env["LD_LIBRARY_PATH"] = f"{lib}:{lib}/intel-opencl:" + env.get("LD_LIBRARY_PATH", "")
    ocloc = f"{a.intel_root}/usr/bin/ocloc" if a.intel_root else find("ocloc")
    opts = " ".join([f"-cl-std={a.cl_std}", *a.defs, *a.opt, *a.intel_opt])
    log = sh([ocloc, "compile", "-file", os.path.abspath(a.file), "-device", tgt, "-options", opts, "-out_dir", d], env=env)
    if "Build succeeded" not in log:
        raise ToolError(log[:1500])
    sh([ocloc, "disasm", "-file", glob.glob(f"{d}/*.bin")[0], "-device", tgt, "-dump", f"{d}/dis"], env=env)
    slm = {}                                                 # patch token 15: AllocateLocalSurface
    for part in re.split(r"KernelName ", open(f"{d}/dis/PTM.txt").read())[1:]:
        m = re.search(r"Token 15\n\s+4 Size 16\n\s+Hex (?:\w+ ){4}(\w+) (\w+) (\w+) (\w+)", part)
        slm[part.split("\n")[0].strip()] = sum(int(x, 16) << (8 * i) for i, x in enumerate(m.groups())) if m else 0
    res = []
    for f in sorted(glob.glob(f"{d}/*.asm")):
        text = open(f).read()
        name = re.search(r"//\.kernel (\S+)", text).group(1).strip('"')
        simd = int(re.search(r"_simd(\d+)_", f).group(1))
        grf = int((re.search(r"numGRF=(\d+)", text) or re.search(r"TotalGRFNum (\d+)", text)).group(1))
        sp = re.search(r"//\.spill size (\d+)", text)
        k = Kernel(tgt, name, regs=f"{grf}GRF SIMD{simd}", spill=int(sp.group(1)) if sp else 0, lds=slm.get(name, 0))
        if tgt in INTEL:
            eu, thr, slmb, maxwg = INTEL[tgt]
            if grf > 128:
                thr //= 2
            per = -(-items(a, name) // simd)
            tot = eu * thr
            n = groups(tot // per, slmb // max(1024, 1 << (max(1, k.lds) - 1).bit_length()), maxwg)
            k.occ = f"{n * per}/{tot} ({n}wg)"
        cur = None
        for line in text.split("\n"):
            b = re.match(r"// (B\d+):.*Succs:\{(.*?)\}", line)
            if b:
                cur = Block(b.group(1), succs=re.findall(r"B\d+", b.group(2)))
                k.blocks.append(cur)
            elif cur is not None and re.match(r"(\([^)]*\))?\s+[a-z]", line):
                cur.insts.append(line.strip())
        res.append(k)
    best = {}                                                # IGC retries a kernel that spills: keep the better try
    for k in res:
        if k.name not in best or k.spill <= best[k.name].spill:
            best[k.name] = k
    return list(best.values())


# ------------------------------------------------------------------ llvm-mca (AMD only)
def mca(a, k, body):
    insts = [t for b in sorted(body) for t in k.blocks[b].insts if not re.match(r"s_c?branch|s_endpgm", t)]
    p = subprocess.run([a.mca_bin, "-mtriple=amdgcn-amd-amdhsa", f"-mcpu={k.target}", "-iterations=20"],
                       input="\n".join(insts) + "\n", capture_output=True, text=True)
    m = re.search(r"Total Cycles:\s+(\d+)", p.stdout)
    return f"mca {int(m.group(1)) / 20:.0f} cyc/iter" if m else "mca failed"


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("file")
    ap.add_argument("-t", "--targets", default=DEFAULT, help=f"comma separated (default {DEFAULT})")
    ap.add_argument("-D", dest="defs", action="append", default=[], metavar="NAME=VAL")
    ap.add_argument("-k", "--kernel", default="", help="regex: only kernels that match")
    ap.add_argument("--opt", action="append", default=[], help="further build option, e.g. --opt=-cl-fast-relaxed-math")
    ap.add_argument("--intel-opt", action="append", default=[], help="e.g. --intel-opt=-cl-intel-256-GRF-per-thread")
    ap.add_argument("--cl-std", default="CL1.2")
    ap.add_argument("--wg", type=int, default=256, help="work-group size of kernels without reqd_work_group_size")
    ap.add_argument("--llvm", default="19", help="suffix of clang-N, llc-N, llvm-mca-N")
    ap.add_argument("--clc", default="", help="directory of libclc's *.bc")
    ap.add_argument("--intel-root", default="", help="where intel-opencl-icd & co were unpacked (dpkg -x) if not installed")
    ap.add_argument("--ptxas", default="", help="e.g. the one of pip's nvidia-cuda-nvcc-cu12 for sm_50..sm_72")
    ap.add_argument("--ptxas-opt", action="append", default=[], help="e.g. --ptxas-opt=-maxrregcount=128 (-cl-nv-maxrregcount)")
    ap.add_argument("--mca", action="store_true", help="add llvm-mca's cycles per iteration (AMD)")
    ap.add_argument("--log", action="store_true", help="print compiler diagnostics")
    ap.add_argument("--keep", default="", help="keep assembly in this directory")
    ap.add_argument("--fail-spill", action="store_true")
    ap.add_argument("--min-fma", type=float, default=0, help="fail below this FMA share (percent)")
    a = ap.parse_args()
    a.defs = [f"-D{d}" for d in a.defs]
    a.clang, a.llc, a.mca_bin, a.log_on, a.log = f"clang-{a.llvm}", f"llc-{a.llvm}", f"llvm-mca-{a.llvm}", a.log, ""
    a.clc = a.clc or (glob.glob(f"/usr/lib/llvm-{a.llvm}/lib/clc") + ["/usr/lib/clc"])[0]
    tmp = a.keep or tempfile.mkdtemp(prefix="isa_")
    os.makedirs(tmp, exist_ok=True)
    bad = rc = 0
    try:
        a.wgs = wg_sizes(a, tmp)
    except ToolError as e:
        sys.exit(f"front end: {e}")
    print(f"{'target':8} {'kernel':14} {'regs':15} {'spill':>5} {'scr':>4} {'LDS':>6} {'occupancy':13} "
          f"{'loop':>5} {'FMA':>5} {'fma%':>5} {'f/ins':>5} {'LDS reads':20} {'global reads':16} notes")
    for tgt in a.targets.split(","):
        back = amd if tgt.startswith("gfx") else nvidia if tgt.startswith("sm_") else intel
        classify = {amd: classify_amd, nvidia: classify_nv, intel: classify_intel}[back]
        try:
            if back is nvidia:
                a.ptxas = a.ptxas or find("ptxas")
                try:
                    a.nvdisasm = find("nvdisasm")
                except ToolError:
                    a.nvdisasm = "nvdisasm"                  # registers and spills only
            kernels = back(a, tgt, tmp)
        except ToolError as e:
            print(f"{tgt:8} FAILED: {e}")
            rc = 1
            continue
        for k in kernels:
            if not re.search(a.kernel, k.name):
                continue
            hot = hot_loop(k, classify)
            m = hot[2] if hot else mix([t for b in k.blocks for t in b.insts], classify)
            whole = mix([t for b in k.blocks for t in b.insts], classify)
            note = "" if hot else "no FMA loop: whole kernel "
            note += f"bar={m.get('bar#', 0)} br={m.get('br#', 0)} sync={m.get('sync#', 0)}"
            if m.get("rest"):
                note += f" outer+{m['rest']['total'] - m['total']}"
            if m.get("spill#"):
                note += f" SPILL-IN-LOOP={m['spill#']}"
            if whole.get("flat#"):
                note += f" FLAT={whole['flat#']}"
            if a.mca and back is amd and hot:
                note += " " + mca(a, k, hot[1])
            fmt = lambda d: " ".join(f"{n}x{8 * w}b" for w, n in sorted(d.items(), reverse=True)) or "-"
            share = 100 * m["fma_inst"] / max(1, m["total"])
            print(f"{k.target:8} {k.name[:14]:14} {k.regs:15} {k.spill:5} {k.scratch:4} {k.lds:6} {k.occ:13} {m['total']:5} "
                  f"{m['fma']:5} {share:5.1f} {m['fma'] / max(1, m['total']):5.2f} {fmt(m['lds']):20} {fmt(m['gl']):16} {note}{k.note}")
            bad |= (a.fail_spill and k.spill + k.scratch > 0) or share < a.min_fma
    if a.log_on and a.log.strip():
        print(a.log, file=sys.stderr)
    if not a.keep:
        shutil.rmtree(tmp)
    sys.exit(rc or (2 if bad else 0))


if __name__ == "__main__":
    main()
