"""HDF5 and safetensors: what is in the files, and that a failing load changes nothing."""

from __future__ import annotations

import io
import json

import h5py
import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

import clconv
from clconv import Conv1D, Deconv1D, Module, ModuleError, Pad1D, Sequential, Variable, gpuarray
from clconv.files import blueprint_of, build, load_safetensors, save_safetensors

LAYERS = {
    "Conv1D": lambda: Conv1D(4, 6, 3, groups=2),
    "Conv1D without bias": lambda: Conv1D(2, 3, 2, useBias=False, name="conv"),
    "Deconv1D": lambda: Deconv1D(4, 6, 3, stride=2, postpad=1, groups=2),
    "Pad1D": lambda: Pad1D((1, 2)),
    "empty": lambda: Conv1D(2, 3, 2, empty=True),
    "Sequential": lambda: chain(),
    "named": lambda: chain("net"),
}


class Mean(Module):
    """A layer of one's own, with a variable and an attribute that is none."""

    def __init__(self, name=None):
        super().__init__(name)
        self.setVar("gain", Variable(np.ones(3, np.float32)))
        self.attrs["mean"] = gpuarray.zeros((3,))
        self.attrs["count"] = np.zeros((), np.int64)


def chain(name=None):
    block = Sequential("block").append(Conv1D(3, 3, 2)).append(Mean())
    net = Sequential(name).append(Conv1D(1, 3, 2, name="c")).append(Pad1D(1)).append(block)
    return net.append(Deconv1D(3, 1, 2))


def filled(module, rng):
    """The module with normally distributed parameters."""
    for variable in module.getVarTable():
        variable.data.set(rng.standard_normal(variable.data.shape).astype(variable.data.dtype))
    return module


def values(module):
    return [variable.data.get() for variable in module.getVarTable()]


def equal(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def file_of(image):
    return h5py.File(io.BytesIO(image), "r")


def changed(image, change):
    """The bytes of an HDF5 file after a change."""
    buffer = io.BytesIO(image)
    with h5py.File(buffer, "a") as file:
        change(file)
    return buffer.getvalue()


# HDF5


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("where", ["path", "bytes", "file"])
def test_round_trip(runtime, rng, tmp_path, kind, where):
    module = filled(LAYERS[kind](), rng)
    other = filled(LAYERS[kind](), rng)
    arrays = [variable.data for variable in other.getVarTable()]
    if where == "path":
        path = tmp_path / "new folder" / "net.hdf"
        assert module.save(path) is None
        assert [p.name for p in path.parent.iterdir()] == ["net.hdf"]
        other.load(str(path))
    elif where == "bytes":
        other.load(module.save())
    else:
        with h5py.File(tmp_path / "net.hdf", "w") as file:
            assert module.save(file) is None
            other.load(file)
            assert file.id.valid  # who opened it closes it
    equal(values(other), values(module))
    assert all(v.data is a for v, a in zip(other.getVarTable(), arrays, strict=True))


def test_layout(runtime, rng):
    """Datasets, compression, links and names as PuzzleLib has them."""
    conv = filled(Conv1D(4, 6, 3), rng)
    with file_of(conv.save()) as file:
        assert set(file) == {"params", "links"}
        assert {name: int(link[()]) for name, link in file["links"].items()} == {".W": 0, ".b": 1}
        assert file["links/.W"].shape == ()
        assert file["links/.W"].dtype.kind == "i"
        assert set(file["params"]) == {"0", "1"}
        assert file["params/0"].compression == "gzip"
        np.testing.assert_array_equal(file["params/0"][()], conv.W.get())
        assert file["params/0"].dtype == np.float32
    with file_of(conv.save(compress=None)) as file:
        assert file["params/0"].compression is None
    for name, root in ((None, ""), ("net", "net")):
        with file_of(chain(name).save()) as file:
            convolutions = [f"{root}.{p}.{v}" for p in ("c", "block.0", "3") for v in ("W", "b")]
            assert set(file["links"]) == {*convolutions, f"{root}.block.1.gain"}
            attributes = {f"{root}.block.1.{a}" for a in ("mean", "count")}
            assert set(file["attrs"]) == attributes
    with file_of(Conv1D(1, 1, 1, name="conv").save()) as file:
        assert set(file["links"]) == {"conv.W", "conv.b"}
    with file_of(conv.save(name="other")) as file:
        assert set(file["links"]) == {"other.W", "other.b"}
    with file_of(chain("net").save(assumeUniqueNames=True)) as file:
        assert {"net.c.W", "net.0.W", "net.1.gain"} < set(file["links"])
        chain("net").load(file, assumeUniqueNames=True)


def test_reads_a_file_of_puzzlelib(runtime, rng):
    """Written here as PuzzleLib writes it."""
    w, b = rng.standard_normal((3, 2, 1, 2)), rng.standard_normal((1, 3, 1, 1))
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", libver="earliest") as file:
        params, links = file.create_group("params"), file.create_group("links")
        for index, (name, array) in enumerate(((".c.W", w), (".c.b", b))):
            params.create_dataset(str(index), data=array.astype(np.float32), compression="gzip")
            links[name] = index
        file.create_group("attrs.")
    net = Sequential().append(Conv1D(2, 3, 2, name="c"))
    net.load(buffer.getvalue())
    equal(values(net), [w.astype(np.float32), b.astype(np.float32)])


def test_shared_variables_are_stored_once(runtime, rng):
    net = Sequential().append(Conv1D(2, 2, 2, useBias=False)).append(Conv1D(2, 2, 2))
    net.setVar("1.W", net.getVar("0.W"))
    filled(net, rng)
    image = net.save()
    with file_of(image) as file:
        assert len(file["params"]) == 2
        assert file["links/.0.W"][()] == file["links/.1.W"][()]
    apart = Sequential().append(Conv1D(2, 2, 2, useBias=False)).append(Conv1D(2, 2, 2))
    apart.load(image)
    np.testing.assert_array_equal(apart[1].W.get(), net[0].W.get())


def test_several_modules_in_one_file(runtime, rng, tmp_path):
    """With varlinks what they share is stored once."""
    one, two = (filled(Conv1D(2, 2, 2, name=name), rng) for name in ("one", "two"))
    two.setVar("W", one.getVar("W"))
    with h5py.File(tmp_path / "both.hdf", "w") as file:
        links = {}
        one.save(file, links)
        two.save(file, links)
        assert len(file["params"]) == 3
        assert links == {one.getVar("W"): 0, one.getVar("b"): 1, two.getVar("b"): 2}
        Conv1D(2, 2, 2, name="three").save(file)
        assert len(file["params"]) == 5
        with pytest.raises(ModuleError, match=r"Module one save error: the file has links/one\.W"):
            one.save(file)
        assert len(file["params"]) == 5
        expected = values(two)
        other = filled(Conv1D(2, 2, 2, name="two"), rng)
        other.load(file)
        equal(values(other), expected)
        seen = {other.getVar("W"): True}
        kept = filled(other, rng).W.get()
        other.load(file, seen)
        np.testing.assert_array_equal(other.W.get(), kept)
        np.testing.assert_array_equal(other.b.get(), expected[1])
        assert seen[other.getVar("b")]


def test_attributes(runtime, rng):
    mean = Mean()
    mean.attrs["mean"].set(np.float32([1, 2, 3]))
    mean.attrs["count"][...] = 7
    other = Mean()
    other.load(mean.save())
    np.testing.assert_array_equal(other.attrs["mean"].get(), [1, 2, 3])
    assert other.attrs["count"] == 7
    mean.attrs["kind"] = "x"
    with pytest.raises(ModuleError, match=r"save error: attribute \.kind is a str, expected an ar"):
        mean.save()


@pytest.mark.parametrize("saved", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("wanted", [np.float16, np.float32, np.float64])
def test_dtypes(runtime, rng, saved, wanted):
    """Narrower files load, wider ones are refused."""
    if np.float64 in (saved, wanted) and not runtime.info.fp64:
        pytest.skip("the device has no float64")
    module, other = Conv1D(2, 3, 2), filled(Conv1D(2, 3, 2), rng)
    module.calcMode(saved)
    filled(module, rng)
    other.calcMode(wanted)
    before = values(other)
    if np.dtype(saved).itemsize <= np.dtype(wanted).itemsize:
        other.load(module.save())
        equal(values(other), [v.astype(wanted) for v in values(module)])
        load_safetensors(other, save_safetensors(module))
        equal(values(other), [v.astype(wanted) for v in values(module)])
    else:
        with pytest.raises(ModuleError, match=rf"has dtype {np.dtype(saved)}, expected"):
            other.load(module.save())
        with pytest.raises(ModuleError, match=rf"has dtype {np.dtype(saved)}, expected"):
            load_safetensors(other, save_safetensors(module))
        equal(values(other), before)


def test_other_order_of_bytes(runtime, rng):
    conv = filled(Conv1D(2, 3, 2), rng)

    def swap(file):
        swapped = file["params/0"][()].astype(">f4")
        del file["params/0"]
        file["params/0"] = swapped
        assert file["params/0"].dtype == np.dtype(">f4")

    other = Conv1D(2, 3, 2)
    other.load(changed(conv.save(), swap))
    equal(values(other), values(conv))


def _delete(*names):
    def change(file):
        for name in names:
            del file[name]

    return change


def _put(name, value):
    def change(file):
        del file[name]
        file[name] = value

    return change


# The change is to the last parameters, so that what comes before them would be set already.
DAMAGE = {
    "no link": (_delete("links/net.3.b"), "the file has no dataset links/net.3.b"),
    "no links": (_delete("links"), r"the file has no dataset links/net\.c\.W"),
    "no parameter": (_delete("params/6"), "the file has no dataset params/6"),
    "no attribute": (_delete("attrs"), r"the file has no dataset attrs/net\.block\.1\.mean"),
    "group": (
        lambda f: (_delete("params/6")(f), f.create_group("params/6")),
        "no dataset params/6",
    ),
    "shape": (
        _put("params/6", np.zeros((1, 2, 1, 1), np.float32)),
        r"params/6, net\.3\.b, has shape \(1, 2, 1, 1\), expected \(1, 1, 1, 1\)",
    ),
    "wide": (_put("params/6", np.zeros((1, 1, 1, 1))), "has dtype float64, expected float32"),
    "integers": (_put("params/6", np.zeros((1, 1, 1, 1), np.int8)), "has dtype int8, expected"),
    "text": (_put("params/6", "weights"), r"has shape \(\), expected \(1, 1, 1, 1\)"),
    "link of text": (_put("links/net.3.b", "6"), r"links/net\.3\.b has shape \(\) and dtype obj"),
    "links": (_put("links/net.3.b", [6, 6]), r"links/net\.3\.b has shape \(2,\) and dtype int64"),
    "not there": (_put("links/net.3.b", 66), "the file has no dataset params/66"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_file(runtime, rng, kind):
    """The error says what is wrong; nothing has changed."""
    change, message = DAMAGE[kind]
    image = changed(filled(chain("net"), rng).save(), change)
    net = filled(chain("net"), rng)
    before = values(net)
    with pytest.raises(ModuleError, match=f"Module net load error: .*{message}"):
        net.load(image)
    equal(values(net), before)


def test_no_hdf5_file(runtime, rng, tmp_path):
    conv = filled(Conv1D(2, 3, 2), rng)
    image, before = conv.save(), values(conv)
    noise = tmp_path / "noise.hdf"
    noise.write_bytes(rng.bytes(5000))
    cut = [image[: len(image) * part // 8] for part in range(8)]
    for source in (tmp_path / "missing.hdf", str(noise), noise.read_bytes(), tmp_path, *cut):
        with pytest.raises(ModuleError, match="Module  load error: "):
            conv.load(source)
    for wrong in (7, None, [image]):
        with pytest.raises(ModuleError, match=r"load error: hdf is a \w+, expected a path, bytes"):
            conv.load(wrong)
    with pytest.raises(ModuleError, match=r"hdf is a int, expected a path, an open h5py\.File"):
        conv.save(7)
    equal(values(conv), before)


def test_garbled_parameters(runtime, rng):
    """Bytes of compressed data that do not unpack."""
    conv = filled(Conv1D(64, 64, 3), rng)
    image, before = bytearray(conv.save()), values(conv)
    middle = len(image) // 2
    image[middle : middle + 64] = bytes(64)
    with pytest.raises(ModuleError, match="Module  load error: "):
        conv.load(image)
    equal(values(conv), before)


def test_a_failing_save_leaves_the_old_file(runtime, tmp_path):
    conv, path = Conv1D(2, 3, 2), tmp_path / "conv.hdf"
    conv.save(path)
    before = path.read_bytes()
    with pytest.raises(ModuleError, match="Module  save error: "):
        conv.save(path, compress="no such filter")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


# Blueprints


def test_blueprint(runtime, rng):
    net = (
        Sequential("net")
        .append(Pad1D((1, 2), "edge"))
        .append(Conv1D(np.int64(2), 4, 3, initscheme=("he", "out"), activation=("leaky_relu", 0.2)))
    )
    net.append(Sequential("inner").append(Deconv1D(4, 2, 2, stride=2, useBias=False)))
    image = net.save(withBlueprint=True)
    with file_of(image) as file:
        text = file["blueprint"][()].decode()
        assert file["blueprint"].shape == ()
        assert json.loads(text) == json.loads(json.dumps(net.getBlueprint()))
    blueprint = blueprint_of(image)
    other = build(blueprint)
    other.load(image)
    equal(values(other), values(net))
    assert json.dumps(other.getBlueprint()) == json.dumps(net.getBlueprint())
    x = gpuarray.to_gpu(rng.standard_normal((1, 2, 9)).astype(np.float32))
    np.testing.assert_array_equal(other(x).get(), net(x).get())
    with pytest.raises(ModuleError, match="the file has no blueprint"):
        blueprint_of(net.save())


def test_blueprint_with_classes(runtime):
    own = Sequential().append(Mean("m"))
    assert isinstance(build(own.getBlueprint(), [Mean])[0], Mean)
    puzzlelib = {
        "classname": "Sequential",
        "scheme": {"name": None},
        "modules": {"a": {"classname": "Pad1D", "scheme": {"pad": [1, 2], "name": "a"}}},
        "graph": ["a"],
    }
    assert build(puzzlelib)["a"].pad == (1, 2)


def blueprint(name="Conv1D", **scheme):
    return {"classname": name, "scheme": {"inmaps": 1, "outmaps": 1, "size": 1} | scheme}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (blueprint("eval"), "classname is 'eval', expected one of Conv1D, Deconv1D"),
        (blueprint("clconv.files.build"), "classname is 'clconv.files.build', expected"),
        (blueprint(None), "classname is None"),
        (blueprint(runtime=1), "scheme of Conv1D has a runtime"),
        (blueprint(speed=1), "scheme of Conv1D is .*unexpected keyword argument 'speed'"),
        (blueprint(size=0), "size is 0, expected an integer of at least 1"),
        (blueprint(activation="__import__('os')"), "activation is .*expected None, one of"),
        ({"classname": "Conv1D"}, "expected classname and scheme"),
        ([], r"blueprint is \[\], expected classname and scheme"),
        (blueprint() | {"graph": [blueprint()]}, "graph of Conv1D is .*expected that of a Seq"),
        ({"classname": "Sequential", "scheme": {}, "graph": ["a"]}, "blueprint is None"),
    ],
)
def test_wrong_blueprint(runtime, wrong, message):
    with pytest.raises(ModuleError, match=message):
        build(wrong)


def test_damaged_blueprint(runtime):
    image = Conv1D(1, 1, 1).save(withBlueprint=True)
    for value in ("{", "[]", 7):
        with pytest.raises(ModuleError, match="blueprint"):
            blueprint_of(changed(image, _put("blueprint", value)))


# Safetensors


def torch_twin():
    return torch.nn.Sequential(
        torch.nn.Conv1d(2, 6, 3, stride=2, padding=1, groups=2),
        torch.nn.Conv1d(6, 4, 2, dilation=2, bias=False),
        torch.nn.Sequential(torch.nn.ConvTranspose1d(4, 2, 3, stride=2, output_padding=1)),
    )


def twin():
    inner = Sequential().append(Deconv1D(4, 2, 3, stride=2, postpad=1))
    net = Sequential("net").append(Conv1D(2, 6, 3, stride=2, pad=1, groups=2))
    return net.append(Conv1D(6, 4, 2, dilation=2, useBias=False)).append(inner)


def test_from_torch(runtime, rng, tmp_path):
    theirs, ours = torch_twin(), twin()
    safetensors.torch.save_file(theirs.state_dict(), tmp_path / "net.safetensors")
    load_safetensors(ours, tmp_path / "net.safetensors")
    state = theirs.state_dict()
    assert len(values(ours)) == len(state)
    for variable, name in zip(ours.getVarTable(), state, strict=True):
        np.testing.assert_array_equal(variable.data.get().ravel(), state[name].numpy().ravel())
    x = rng.standard_normal((3, 2, 20)).astype(np.float32)
    expected = theirs(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(ours(gpuarray.to_gpu(x)).get(), expected, rtol=1e-4, atol=1e-5)


def test_to_torch(runtime, rng, tmp_path):
    theirs, ours = torch_twin(), filled(twin(), rng)
    save_safetensors(ours, tmp_path / "net.safetensors", metadata={"format": "pt"})
    state = safetensors.torch.load_file(tmp_path / "net.safetensors")
    theirs.load_state_dict(state)
    x = rng.standard_normal((3, 2, 20)).astype(np.float32)
    expected = theirs(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(ours(gpuarray.to_gpu(x)).get(), expected, rtol=1e-4, atol=1e-5)
    assert [p.name for p in tmp_path.iterdir()] == ["net.safetensors"]


def test_names_and_shapes(runtime, rng):
    tensors = safetensors.numpy.load(save_safetensors(chain("net")))
    assert {name: array.shape for name, array in tensors.items()} == {
        "c.weight": (3, 1, 2),
        "c.bias": (3,),
        "block.0.weight": (3, 3, 2),
        "block.0.bias": (3,),
        "block.1.gain": (3,),
        "block.1.mean": (3,),
        "block.1.count": (),
        "3.weight": (3, 1, 2),
        "3.bias": (1,),
    }
    alone = safetensors.numpy.load(save_safetensors(Conv1D(4, 6, 3, groups=2, name="conv")))
    assert {n: a.shape for n, a in alone.items()} == {"weight": (6, 2, 3), "bias": (6,)}
    linked = torch.nn.Conv1d(4, 6, 3, groups=2)
    linked.load_state_dict({name: torch.from_numpy(a) for name, a in alone.items()})


@pytest.mark.parametrize("kind", LAYERS)
def test_safetensors_round_trip(runtime, rng, kind):
    module, other = filled(LAYERS[kind](), rng), filled(LAYERS[kind](), rng)
    load_safetensors(other, save_safetensors(module))
    equal(values(other), values(module))


def test_shared_tensors(runtime, rng):
    """Both names are written; one alone is enough; two that differ are refused."""
    net = Sequential().append(Conv1D(2, 2, 2, useBias=False))
    net.append(Conv1D(2, 2, 2, useBias=False)).setVar("1.W", net.getVar("0.W"))
    tensors = safetensors.numpy.load(save_safetensors(filled(net, rng)))
    assert set(tensors) == {"0.weight", "1.weight"}
    expected = values(net)
    one = safetensors.numpy.save({"1.weight": tensors["1.weight"]})
    filled(net, rng)
    load_safetensors(net, one)
    equal(values(net), expected)
    tensors["1.weight"] = -tensors["1.weight"]
    with pytest.raises(ModuleError, match=r"1\.weight differs from 0\.weight, with which"):
        load_safetensors(net, safetensors.numpy.save(tensors))
    equal(values(net), expected)


def test_wrong_safetensors(runtime, rng, tmp_path):
    net = filled(chain("net"), rng)
    tensors, before = safetensors.numpy.load(save_safetensors(net)), values(net)

    def without(name):
        return {n: a for n, a in tensors.items() if n != name}

    for wrong, message in (
        (without("3.bias"), r"the file has no tensor '3\.bias', it has: 3\.weight, block"),
        (tensors | {"4.weight": np.zeros(3)}, "the file has tensors that the module has not: 4.we"),
        (tensors | {"3.bias": np.zeros(2, np.float32)}, r"3\.bias has shape \(2,\), expected \(1,"),
        (tensors | {"3.bias": np.zeros(1)}, r"3\.bias has dtype float64, expected float32"),
        (tensors | {"3.bias": np.zeros(1, np.int8)}, r"3\.bias has dtype int8, expected float32"),
    ):
        with pytest.raises(ModuleError, match=f"Module net load error: {message}"):
            load_safetensors(net, safetensors.numpy.save(wrong))
    load_safetensors(net, safetensors.numpy.save(tensors | {"x": np.zeros(3)}), strict=False)
    image = save_safetensors(net)
    for source in (tmp_path / "missing", b"", image[:50], image[:-4], rng.bytes(300), 7, None):
        with pytest.raises(ModuleError, match="Module net load error: "):
            load_safetensors(net, source)
    # An attribute of integers takes no float.
    bfloat = {n: torch.zeros(a.shape, dtype=torch.bfloat16) for n, a in tensors.items()}
    with pytest.raises(ModuleError, match=r"block\.1\.count has dtype bfloat16, expected int"):
        load_safetensors(net, safetensors.torch.save(bfloat))
    with pytest.raises(ModuleError, match="path is a int, expected a path or None"):
        save_safetensors(net, 7)
    equal(values(net), before)


def _image(header, body=b""):
    """A safetensors file of a header, JSON's text or what becomes it."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_bfloat16(runtime, rng, dtype):
    """bfloat16 goes into every dtype, its values unchanged but for what float16 rounds."""
    if dtype == np.float64 and not runtime.profile.fp64:
        pytest.skip(f"{runtime.info.name} has no float64")
    bits = rng.integers(0, 1 << 16, 4 * 2 * 3, dtype=np.uint16)
    bits[:9] = [0, 0x8000, 1, 0x7F80, 0xFF80, 0x7FC0, 0x3F80, 0x0080, 0x4479]
    exact = (bits.astype(np.uint32) << 16).view(np.float32)
    if dtype == np.float16:
        small = ~np.isfinite(exact) | (np.abs(exact) < 65000)
        bits, exact = np.where(small, bits, 0), np.where(small, exact, 0)
    tensor = torch.from_numpy(bits.view(np.int16).copy()).view(torch.bfloat16).reshape(4, 2, 3)
    assert (tensor.float().numpy().ravel().view(np.uint32) == exact.view(np.uint32)).all()
    conv = clconv.Conv1D(2, 4, 3, useBias=False)
    conv.calcMode(dtype)
    load_safetensors(conv, safetensors.torch.save({"weight": tensor}))
    ours, right = conv.W.get().ravel(), exact.astype(dtype)
    np.testing.assert_array_equal(ours, right)
    np.testing.assert_array_equal(np.signbit(ours[:2]), [False, True])


def test_bfloat16_beyond_float16(runtime):
    conv = clconv.Conv1D(1, 1, 3, useBias=False)
    conv.calcMode(np.float16)
    before = conv.W.get()
    for value, fits in ((65280.0, True), (65536.0, False), (-1e30, False), (np.inf, True)):
        tensor = torch.tensor([[[1.0, value, np.nan]]], dtype=torch.bfloat16)
        image = safetensors.torch.save({"weight": tensor})
        if fits:
            load_safetensors(conv, image)
            assert conv.W.get()[0, 0, 0, 1] == np.float16(value)
            conv.W.set(before)
            continue
        message = r"weight has a value of \S+, expected what float16 can hold"
        with pytest.raises(ModuleError, match=message):
            load_safetensors(conv, image)
        np.testing.assert_array_equal(conv.W.get(), before)


@pytest.mark.parametrize("word", ["BF16", "F8_E4M3", "F8_E5M2", "F4", "what comes later"])
def test_tensors_that_nobody_wants(runtime, rng, word):
    """Their dtype is nobody's concern; asked for, it is named."""
    conv = clconv.Conv1D(1, 1, 2, useBias=False)
    weight = rng.standard_normal((1, 1, 2)).astype(np.float32)
    header = {
        "__metadata__": {"by": "hand"},
        "weight": {"dtype": "F32", "shape": [1, 1, 2], "data_offsets": [0, 8]},
        "other": {"dtype": word, "shape": [1, 1, 2], "data_offsets": [8, 12]},
    }
    image = _image(header, weight.tobytes() + bytes(4))
    load_safetensors(conv, image, strict=False)
    np.testing.assert_array_equal(conv.W.get().ravel(), weight.ravel())
    with pytest.raises(ModuleError, match="the file has tensors that the module has not: other"):
        load_safetensors(conv, image)
    if word != "BF16":
        header["weight"], header["other"] = header["other"], header["weight"]
        with pytest.raises(ModuleError, match=f"weight has dtype {word}, expected float32"):
            load_safetensors(conv, _image(header, weight.tobytes() + bytes(4)), strict=False)


@pytest.mark.parametrize(
    "image",
    [
        _image(b"{"),
        _image(b"\xff"),
        _image(b"[" * 100_000),
        _image([]),
        _image({"weight": 3}),
        _image({"weight": {}}),
        _image({"weight": {"dtype": 1, "shape": [], "data_offsets": [0, 0]}}),
        _image({"weight": {"dtype": "F32", "shape": 8, "data_offsets": [0, 8]}}, bytes(8)),
        _image({"weight": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}}, bytes(8)),
        _image({"weight": {"dtype": "F32", "shape": [1, 1, 2], "data_offsets": [0]}}, bytes(8)),
        _image({"weight": {"dtype": "F32", "shape": [1, 1, 2], "data_offsets": [0, 9]}}, bytes(8)),
        _image({"weight": {"dtype": "F32", "shape": [1, 1, 2], "data_offsets": [8, 0]}}, bytes(8)),
        _image({"weight": {"dtype": "F32", "shape": [1, 1, 2], "data_offsets": [0, 4]}}, bytes(8)),
        _image({"weight": {"dtype": "F32", "shape": [10**30], "data_offsets": [0, 8]}}, bytes(8)),
    ],
)
def test_damaged_safetensors(runtime, image):
    conv = clconv.Conv1D(1, 1, 2, useBias=False, name="net")
    with pytest.raises(ModuleError, match="Module net load error: "):
        load_safetensors(conv, image)


@pytest.mark.parametrize("group", ["links", "params"])
def test_a_dataset_in_place_of_a_group(runtime, group):
    conv = clconv.Conv1D(1, 1, 2, useBias=False, name="net")
    image = io.BytesIO(conv.save())
    with h5py.File(image, "r+") as file:
        del file[group]
        file[group] = 3
    with pytest.raises(
        ModuleError, match=f"Module net load error: the file has no dataset {group}"
    ):
        conv.load(image.getvalue())


def test_missing_packages(runtime, monkeypatch):
    """The errors say what to install."""
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    monkeypatch.setitem(__import__("sys").modules, "safetensors.numpy", None)
    conv = clconv.Conv1D(1, 1, 1)
    for call, extra in ((conv.save, "hdf5"), (lambda: save_safetensors(conv), "safetensors")):
        with pytest.raises(ImportError, match=rf'pip install "clconv\[{extra}\]"'):
            call()
