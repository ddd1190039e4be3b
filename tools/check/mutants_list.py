"""The faults that mutants.py plants, one at a time, by file.

Each row: what is wrong, a text that occurs exactly once in the file, what stands in its place, and
the tests that should see it: arguments of pytest, or a tool. A fifth column says why no test sees
the fault. Where code changes its row changes: `mutants.py` names the rows that no longer fit.
"""

from __future__ import annotations

from typing import NamedTuple


class Fault(NamedTuple):
    """A fault; `survives` says why no test sees it, "" where one should."""

    file: str
    what: str
    text: str
    replacement: str
    tests: str
    survives: str = ""


ACCURACY = "tests/test_accuracy.py -k "
POINTWISE = "tests/test_pointwise.py"
NAMED = ACCURACY + (
    "'test_named_problem and (several or share or coprime or taps or odd or large or many or few) "
    "and not (half or double or transposed or gpu)'"
)
DTYPES = ACCURACY + "'half or double'"
ON_GPU = ACCURACY + "as_on_a_gpu"
EPILOGUE = ACCURACY + "'test_epilogue and float32'"
TRANSPOSED = ACCURACY + "'test_named_problem_transposed or test_transposed'"
TILES = ACCURACY + "test_every_tile"
GEMM = (
    "tests/test_gpu_variants.py -k 'test_named_problem and tiles and "
    "(several or share or odd or coprime)'"
)
SHAPES = "tests/test_gpu_variants.py -k 'test_shape and (64x128 or 32x32)'"
FEW_COLUMNS = "tests/test_gpu_variants.py -k 'test_few_columns and float32 and (gaps or wider)'"
SIGNAL = "tests/test_signal.py"
SIGNAL_KERNELS = "tests/test_signal_kernels.py"
HOST_ARRAYS = "tests/test_host_arrays.py"
WINDOW = (
    "tests/test_gpu_variants.py -k 'test_named_problem and window and "
    "(several or share or depth or few or wider)'"
)
NOT_FINITE = "tests/test_reliability.py -k 'nan_and_infinity or infinite_weights'"
PLACES = "tests/test_functional.py -k 'what_is_added or midst'"
WIDE_STRIDE = ACCURACY + "'test_named_problem and stride and wider'"
REMAINDERS = ACCURACY + "'every_remainder and not gpu'"
SHARES = "tests/test_functional.py -k 'shares_are_added or gradients_together'"
FUNCTIONAL = "tests/test_functional.py -k 'not (what_is_added or midst or shares_are_added)'"
LAUNCHES = "tests/test_launch_path.py"
SEQUENCE_OUTS = (
    "tests/test_sequences.py -k 'gaps or places or place_each or views or nan or needed'"
)
SEQUENCES = "tests/test_sequences.py -k 'arguments or other_seq or updates or switch or true'"
PLANNING = "tests/test_planning.py"
COST = "tests/test_cost.py"
SPECTRAL = "tests/test_spectral.py"
WINOGRAD = "tests/test_winograd.py"
PHASES = "tests/test_winograd_phases.py"
PLANES = "tests/test_planes.py"
SHIPPED = "tests/test_shipped.py"
PROBLEM = "tests/test_problem.py"
RUNTIME = (
    "tests/test_runtime.py -k 'filling or order or cache_sizes or memory or pool or build_error or "
    "bounded or stays or runtime_of or larger'"
)
BINARIES = "tests/test_runtime.py -k binar"
THREADS = "tests/test_reliability.py -k 'no_lock or interrupted_build or queues_in_threads'"
ARRAYS = "tests/test_gpuarray.py"
CONTRACT = "tests/test_contract.py"
ACTIVATIONS = "tests/test_layers.py -k 'activations or belongs_to_the_last'"
LAYERS = "tests/test_layers.py -k 'not (activations or optimize)'"
SEQUENTIAL = "tests/test_sequential.py"
PAD = "tests/test_pad1d.py"
STREAMING = "tests/test_streaming.py"
STREAMS = "tests/test_streams.py"
TORCH = "tests/test_torch.py -k 'not (compile or distributed or training_follows or sample_inputs)'"
ONNX = "tests/test_onnx.py"
ONNX_MODELS = "tests/test_onnx_models.py"
ONNX_NODES = "tests/test_onnx_nodes.py"
ONNX_SHAPES = "tests/test_onnx_shapes.py"
BFLOAT16 = "tests/test_bfloat16.py -k 'every or once'"
FILES = "tests/test_files.py"
CHECKS = "tests/test_testing.py"
TUNING = "tests/test_tuning.py -k 'not (tool or calibration or torch)'"
COLUMNS = "tests/test_gpu_variants.py -k columns_decide"
WIDE_VECTORS = "tests/test_planning.py -k schedules_have"
SPECIAL = "tests/test_special_values.py"
ATOMIC = "tests/test_atomic_containers.py"
COPIES = "tests/test_copies.py"
MEMORY_KINDS = "tests/test_memory_kinds.py"
REMEMBERED = "tests/test_drivers.py -k remembered"
ANNOUNCED = "tests/test_drivers.py -k what_is_announced"
TORCH_MEMORY = "tests/test_torch_memory.py"
WARM_UP = "tests/test_torch_warm_up.py"
TORCH_AUTOGRAD = "tests/test_torch_autograd.py -k 'tangents or test_vmap'"
LAYOUTS = "tests/test_layouts.py"
TORCH_LAYOUTS = "tests/test_torch_layouts.py"
OCLGRIND = "tools/check/oclgrind_check.py"
OCLGRIND_GPU = "tools/check/oclgrind_gpu.py"

Row = tuple[str, str, str, str] | tuple[str, str, str, str, str]

# By the file's path below clconv/.
_ROWS: dict[str, list[Row]] = {
    "templates/common/channels.cl.mako": [
        (
            "the last vector of channels does not begin early",
            "c_next + LANES <= channels ? c_next : channels - LANES",
            "c_next",
            LAYOUTS,
        ),
        (
            "positions before the first are not zeros where channels lie side by side",
            "for (int t = 0; t < begin; ++t) to[c * pitch + t] = 0;",
            "for (int t = 1; t < begin; ++t) to[c * pitch + t] = 0;",
            LAYOUTS,
        ),
        (
            "four channels get the bias of the first",
            "load(bias + bias_offset + ${channel} + e)",
            "load(bias + bias_offset + ${channel})",
            LAYOUTS,
        ),
    ],
    "templates/depthwise/channels_depthwise.cl.mako": [
        (
            "rows are read beyond their end",
            "first + REACH + (VECTORS - 1) * STRIDE < LENGTH",
            "first + REACH < LENGTH",
            LAYOUTS,
        ),
        (
            "taps of the input gradient are in the order of the forward pass",
            'return "(KERNEL_SIZE - 1 - (%s))" % k if backward',
            'return "(%s)" % k if backward',
            LAYOUTS,
        ),
    ],
    "templates/elementwise/transpose.cl.mako": [
        (
            "the last rows are not transposed where columns are whole",
            "for (int s = r < r_whole ? s_whole : 0; s < s_count; ++s)",
            "for (int s = s_whole; s < s_count; ++s)",
            LAYOUTS,
        )
    ],
    "templates/common/common.cl.mako": [
        (
            "an old gradient is read with momentum 0",
            "if (momentum != 0) sum = momentum * load(at) + sum;",
            "sum = momentum * load(at) + sum;",
            FUNCTIONAL,
        ),
        (
            "two shares are stored as if they were one",
            "if (shares > 1) *partial = sum;",
            "if (shares > 2) *partial = sum;",
            SHARES,
        ),
        (
            "a checked load reads one element behind the row",
            "const int ok = i >= 0 && i <= last && p >= 0 && p < length;",
            "const int ok = i >= 0 && i <= last && p >= 0 && p <= length;",
            ON_GPU,
        ),
        (
            "a vector is loaded whole across the last position",
            "if (first >= 0 && first <= last - (LANES - 1) && p_first >= 0",
            "if (first >= 0 && first <= last && p_first >= 0",
            NOT_FINITE,
        ),
        (
            "a store goes one position behind its limit",
            "if (inside || (p >= 0 && p < limit)) store",
            "if (inside || (p >= 0 && p <= limit)) store",
            NAMED,
        ),
        (
            "strided loads forget the stride",
            '["load(at + %d * step)" % e for e in span]',
            '["load(at + %d)" % e for e in span]',
            ACCURACY + "'test_named_problem and stride'",
        ),
    ],
    "templates/elementwise/activation_gradient.cl.mako": [
        (
            "sigmoid's derivative has a wrong sign",
            "return x * (v * (1.0${f} - v));",
            "return x * (v * (1.0${f} + v));",
            ACTIVATIONS,
        ),
        (
            "tanh's derivative",
            "return x * (1.0${f} - v * v);",
            "return x * (1.0${f} - v);",
            ACTIVATIONS,
        ),
        (
            "gelu's derivative has a wrong sign",
            "return x * (cdf + v * (0.398",
            "return x * (cdf - v * (0.398",
            ACTIVATIONS,
        ),
        (
            "silu's derivative without its first term",
            "return x * (sigmoid * (1.0${f} + v * (1.0${f} - sigmoid)));",
            "return x * (sigmoid * (v * (1.0${f} - sigmoid)));",
            ACTIVATIONS,
        ),
        (
            "leaky_relu has no slope at zero",
            "return v > 0 ? x : x * slope;",
            "return v >= 0 ? x : x * slope;",
            SPECIAL,
        ),
        (
            "relu multiplies by 0 in place of choosing 0",
            "return v <= 0 ? 0.0${f} : x;",
            "return v <= 0 ? 0.0${f} * x : x;",
            SPECIAL,
        ),
        (
            "relu passes nothing on where it was NaN",
            "return v <= 0 ?",
            "return !(v > 0) ?",
            SPECIAL,
        ),
    ],
    "templates/direct/bias_gradient_direct.cl.mako": [
        (
            "work-items of a group sum the same positions",
            "q += LOCAL * LANES",
            "q += LANES",
            ON_GPU,
        ),
        (
            "work-items of a group share a place for their sums",
            "(part * LOCAL + item) * channels",
            "(part + item) * channels",
            ON_GPU,
        ),
        (
            "the batch stride of the gradient is left out",
            "y_offset + n * y_batch_stride + o * y_channel_stride",
            "y_offset + o * y_channel_stride",
            FUNCTIONAL,
        ),
    ],
    "templates/depthwise/convolution_depthwise.cl.mako": [
        (
            "the last window reaches beyond the row",
            "LENGTH - REACH + lead < end ? LENGTH - REACH + lead : end",
            "LENGTH - REACH + lead < end ? LENGTH - REACH + lead + 1 : end",
            REMAINDERS,
        ),
        (
            "the depth multiplier is ignored",
            "(o / MULTIPLIER) * x_channel_stride",
            "o * x_channel_stride",
            ACCURACY + "'test_named_problem and depth'",
        ),
        (
            "zeros' NaN near the ends is not mended",
            "s0 = sums_inside(s0, LANES, x_row, 0, row_taps, q - lead + REACH, LENGTH);",
            ";",
            NOT_FINITE,
        ),
    ],
    "variants/winograd/transforms.py": [
        (
            "shared sums have a sign wrong",
            "row[step.name] = sign * row.pop(first)",
            "row[step.name] = row.pop(first)",
            WINOGRAD + " -k 'transforms or magnitudes'",
        ),
        (
            "the point at infinity has the taps' first",
            "weight.append(tuple(Fraction(k == taps - 1) for k in range(taps)))",
            "weight.append(tuple(Fraction(k == 0) for k in range(taps)))",
            WINOGRAD + " -k transforms",
        ),
        (
            "products are not rounded",
            "return int(numerator & (numerator - 1) != 0)",
            "return 0",
            WINOGRAD + " -k roundings",
        ),
    ],
    "variants/winograd/tiles.py": [
        (
            "the input gradient begins a sample late",
            "(self.transform.taps - 1) * self.lines - left",
            "(self.transform.taps - 1) * self.lines - 1 - left",
            WINOGRAD,
        ),
        (
            "phases begin with a row, whatever its padding",
            "return self.problem.pads[0] % self.phases",
            "return 0",
            PHASES + " -k bound_has",
        ),
    ],
    "variants/winograd/bound.py": [
        (
            "the bound is a thousandth",
            "found = _product(testing.gamma(count, dtype) * sums + small, form.inverse)",
            "found = 1e-3 * _product(testing.gamma(count, dtype) * sums + small, form.inverse)",
            WINOGRAD + " -k bound",
        ),
        (
            "results made again by the definition have no bound",
            "np.where(finite, found, larger)",
            "np.where(finite, found, 0.0)",
            WINOGRAD + " -k finite",
        ),
        (
            "gradients of y lie as far apart as samples of x",
            "size, step, lead = tiles.outputs, tiles.outputs, 0",
            "size, lead = tiles.outputs, 0",
            WINOGRAD + " -k bound_of_gradients",
        ),
    ],
    "variants/winograd/work.py": [
        (
            "the last vectors have no task",
            "blocks = ceil_div(all_vectors, vectors)",
            "blocks = max(all_vectors // vectors, 1)",
            WINOGRAD + " -k tasks",
        ),
        (
            "planes of points may be pages apart",
            "self.vectors * self.tiles.channels + ceil_div(self.line, self.lanes)",
            "self.vectors * self.tiles.channels",
            WINOGRAD + " -k planes",
        ),
    ],
    "variants/winograd/weight_gradient.py": [
        (
            "rows of sums are a power of two apart",
            "return padded(row, self.item_bytes) if cut.c_blocks > 1 else row",
            "return row",
            WINOGRAD + " -k rows_of_sums",
        ),
        (
            "the last places have no chunk",
            "chunks = max(1, ceil_div(all_places, way.places))",
            "chunks = max(1, all_places // way.places)",
            WINOGRAD + " -k chunks",
        ),
        (
            "overlapping samples of a chunk have no room",
            "(positions - overlap) // form.step, positions",
            "positions // form.step, positions",
            WINOGRAD + " -k chunks",
        ),
    ],
    "templates/winograd/weight_gradient_winograd.cl.mako": [
        (
            "a chunk overwrites those before it",
            "if (adding) {",
            "if (0) {",
            WINOGRAD + " -k many_chunks",
        ),
        (
            "what is outside a row is not zero",
            "inside_begin < 0 ? 0 : inside_begin < count ? (int)inside_begin : count;",
            "0;",
            WINOGRAD + " -k 'examples and WEIGHT'",
        ),
        (
            "lines behind the last are summed twice",
            "DILATION - line < block_lines ? DILATION - line : block_lines;",
            "block_lines;",
            WINOGRAD + " -k many_chunks",
        ),
    ],
    "templates/winograd/weight_results_winograd.cl.mako": [
        (
            "sums that are not finite stay",
            "if (*sum * 0 != 0)",
            "if (0)",
            WINOGRAD + " -k 'finite and WEIGHT'",
        ),
        (
            "only the first share counts",
            "NO_UNROLL for (int s = 0; s < shares; ++s) {",
            "NO_UNROLL for (int s = 0; s < min(shares, 1); ++s) {",
            WINOGRAD + " -k many_chunks",
        ),
    ],
    "templates/winograd/winograd.cl.mako": [
        (
            "turned results are out of order",
            "const VECTOR ${name} = ${alternately(a, b, high)};",
            "const VECTOR ${name} = ${alternately(b, a, high)};",
            WINOGRAD + " -k examples",
        )
    ],
    "templates/winograd/weight_winograd.cl.mako": [
        (
            "taps of the input gradient are not reversed",
            "(form.taps - 1 - k) * phases + phase if backward else k",
            "k * phases + phase if backward else k",
            WINOGRAD + " -k examples",
        ),
        (
            "phases have each other's taps",
            "* phases + phase if backward",
            "* phases + (phases - 1 - phase) if backward",
            PHASES + " -k every_device",
        ),
        (
            "tiles of six channels lie as those of eight",
            "to += CHANNEL_TILE, from",
            "to += ${side}, from",
            WINOGRAD + " -k channel_tiles",
        ),
    ],
    "templates/winograd/results.cl.mako": [
        (
            "sums that are not finite stay",
            "if (sum_tree(check) == 0) break;",
            "break;",
            WINOGRAD + " -k finite",
        ),
        (
            "lines behind the last are stored",
            "positions - begin < DILATION - line ? positions : (int)begin + (DILATION - line)",
            "positions",
            WINOGRAD + " -k 'examples and vector'",
            "what is behind the last line is the next result's first: right, and stored twice",
        ),
    ],
    "templates/winograd/convolution_winograd.cl.mako": [
        (
            "a row's first tiles overwrite those of the row before it",
            "lane ? (others ? to[${p} * plane + c * VECTORS] : d${p}) : d${p};",
            "d${p};",
            WINOGRAD + " -k 'examples and short'",
        ),
        (
            "what is behind a row's end is read",
            "if (lane == 0 && first >= 0 && first + SPAN <= length)",
            "if (lane == 0 && first >= 0)",
            WINOGRAD + " -k examples",
        ),
        (
            "a vector of lines is read whole where its row ends in it",
            "if (at >= 0 && at + LANES <= length) {",
            "if (at >= 0 && at < length) {",
            WINOGRAD + " -k examples",
        ),
    ],
    "variants/spectral/transforms.py": [
        (
            "a factor is conjugate",
            "found += (angle[0], -angle[1])",
            "found += (angle[0], angle[1])",
            SPECTRAL + " -k test_transforms",
        ),
        (
            "a butterfly of radix 8 has a sign wrong",
            '("t3r", "HALF_ROOT * (o3i - o3r)")',
            '("t3r", "HALF_ROOT * (o3i + o3r)")',
            SPECTRAL + " -k test_transforms",
        ),
    ],
    "variants/cuts.py": [
        (
            "a tile gives a result too many",
            "return self.size - self.taps + 1",
            "return self.size - self.taps + 2",
            SPECTRAL,
        ),
        (
            "the input gradient of a stride begins a sample late",
            "return self.taps - 1 - left // self.problem.stride",
            "return self.taps - 2 - left // self.problem.stride",
            SPECTRAL,
        ),
    ],
    "variants/batched.py": [
        (
            "no limit of workspaces",
            "most = min(most, request.workspace_limit - other_bytes)",
            "pass",
            PLANES + " -k 'workspaces or turns'",
        ),
        (
            "a turn forgets those before it",
            "launches.append(multiplied(pitch, first > 0))",
            "launches.append(multiplied(pitch, False))",
            PLANES + " -k turns",
        ),
        (
            "auto takes what nobody has timed",
            "measured_only=True,",
            "measured_only=False,",
            PLANES + " -k records",
        ),
    ],
    "variants/spectral/straight.py": [
        (
            "the third product of a complex one is of a difference",
            'f"{re_} + {im}")',
            'f"{re_} - {im}")',
            PLANES + " -k schemes",
        )
    ],
    "templates/batched/batched.cl.mako": [
        (
            "lines of a dilation begin at the same sample",
            "+ column % LINES - lead",
            "- lead",
            PLANES + " -k bound",
        )
    ],
    "templates/batched/transform_batched.cl.mako": [
        (
            "phases of a stride begin at the same sample",
            "firsts[tile] + phase + (long)i * STEP",
            "firsts[tile] + (long)i * STEP",
            PLANES + " -k bound",
        )
    ],
    "templates/batched/weights_batched.cl.mako": [
        (
            "taps of the input gradient are not in reverse",
            "(TAPS - 1 - i) * STRIDE",
            "i * STRIDE",
            PLANES + " -k bound",
        )
    ],
    "templates/batched/inverse_batched.cl.mako": [
        ("what is not finite stays so", "if (sum * 0 != 0)", "if (0)", PLANES + " -k finite")
    ],
    "templates/batched/weight_inverse_batched.cl.mako": [
        (
            "gradients that are not finite stay so",
            "if (sum * 0 != 0)",
            "if (0)",
            PLANES + " -k finite",
        )
    ],
    "variants/spectral/tiles.py": [
        (
            "vectors before a row are no single samples",
            "outside += min(vectors, max(0, -first // self.lanes))",
            "outside += 0",
            SPECTRAL + " -k single_elements",
        ),
        (
            "samples of lines that are not read together fit where they do not",
            "return step if fits else 1",
            "return step",
            SPECTRAL,
        ),
    ],
    "variants/spectral/bound.py": [
        (
            "the bound is a thousandth",
            "found = 1.01 * (of_norm",
            "found = 1e-3 * (of_norm",
            SPECTRAL,
        ),
        (
            "direct sums of what overflows have no bound",
            "found = np.where(overflows, np.maximum(found, direct), found)",
            "found = np.where(overflows, 0.0, found)",
            SPECTRAL + " -k overflows",
        ),
    ],
    "variants/spectral/weight_gradient.py": [
        (
            "a turn forgets those before it",
            "adding=int(first > 0)",
            "adding=0",
            SPECTRAL + " -k turns",
        )
    ],
    "variants/spectral/kernels.py": [
        (
            "no limit of workspaces",
            "most = min(most, request.workspace_limit - other_bytes)",
            "pass",
            SPECTRAL + " -k 'workspaces or turns'",
        )
    ],
    "variants/spectral/costs.py": [
        (
            "kept weights are priced as if transformed",
            "if not self.tiles.request.kept:",
            "if True:",
            SPECTRAL + " -k choice",
        )
    ],
    "templates/spectral/fourier.cl.mako": [
        ("what separates has a sign wrong", "di = br - ar;", "di = ar - br;", SPECTRAL),
        (
            "what joins has a sign wrong",
            "z[2 * (POINTS - k)] = tr - ei;",
            "z[2 * (POINTS - k)] = tr + ei;",
            SPECTRAL,
        ),
    ],
    "templates/spectral/sums_of_products.cl.mako": [
        (
            "a complex product has a sign wrong",
            "s${i}_${j}r = s${i}_${j}r - im * w${j}i;",
            "s${i}_${j}r = s${i}_${j}r + im * w${j}i;",
            SPECTRAL,
        )
    ],
    "templates/spectral/transform_spectral.cl.mako": [
        (
            "samples at a row's end are a place off",
            "const int shift = (int)(from - p);",
            "const int shift = (int)(from - p) + 1;",
            SPECTRAL,
        ),
        (
            "results behind a tile's last are transformed, too",
            "% if taken < transform.size:",
            "% if False:",
            SPECTRAL,
        ),
    ],
    "templates/spectral/inverse_spectral.cl.mako": [
        (
            "sums that are not finite stay",
            "if (all * 0 != 0) {",
            "if (0) {",
            SPECTRAL + " -k overflows",
        ),
        (
            "the last vector goes on behind the tile",
            "turn + LANES <= span || span < LANES ? turn : span - LANES;",
            "turn;",
            SPECTRAL,
        ),
    ],
    "templates/spectral/row_spectral.cl.mako": [
        (
            "the product has a sign wrong",
            "gr = nr * ur - ni * ui",
            "gr = nr * ur + ni * ui",
            SPECTRAL + " -k 'one or long'",
        ),
        (
            "a tile's last vector is stored behind it",
            "behind < positions ? (int)behind : positions;",
            "positions;",
            SPECTRAL + " -k 'one or long'",
        ),
    ],
    "templates/spectral/weight_inverse_spectral.cl.mako": [
        (
            "sums that are not finite stay",
            "if (all * 0 != 0) {",
            "if (0) {",
            SPECTRAL + " -k overflows",
        ),
        (
            "the old gradient is forgotten",
            "if (momentum != 0) v = momentum * load_vector(to) + v;",
            "",
            SPECTRAL + " -k accumulation",
        ),
    ],
    "templates/strip/stores.cl.mako": [
        (
            "the first channel of a tile that begins early is not stored",
            '"if (m + %d >= wanted) " % i if',
            '"if (m + %d > wanted) " % i if',
            NAMED,
        ),
        (
            "the bias's offset is left out where stores need no test",
            "SUM b = load(bias + bias_offset + ((long)g",
            "SUM b = load(bias + ((long)g",
            PLACES,
        ),
        (
            "stores without a test go beyond the last position",
            "const int plain = whole && start >= 0 && start + VECTORS * LANES <= out_limit;",
            "const int plain = whole && start >= 0 && start + VECTORS * LANES <= out_limit + 1;",
            REMAINDERS,
        ),
    ],
    "templates/strip/sums.cl.mako": [
        ("sums of earlier channels are dropped", "if (c_first) {", "if (c_first < 0) {", NAMED)
    ],
    "templates/strip/input_gradient_strip.cl.mako": [
        (
            "a phase that has no taps has one",
            "const int tap_count = r % COMMON == 0 && first_tap < KERNEL_SIZE",
            "const int tap_count = r % COMMON == 0",
            WIDE_STRIDE,
        )
    ],
    "templates/strip/tiles.cl.mako": [
        (
            "vectors of two rows are taken for one row's",
            "const int whole = in_row + VECTORS <= row_count;",
            "const int whole = 1;",
            TILES,
        )
    ],
    "templates/strip/strip.cl.mako": [
        (
            "a strided strip reads one element behind the row",
            "(length - 1 - first) / ${step} + 1",
            "(length - first) / ${step} + 1",
            REMAINDERS,
        ),
        (
            "a strided strip begins before the row",
            "(${step - 1} - first) / ${step}",
            "(-first) / ${step}",
            REMAINDERS,
        ),
        (
            "all rows of a stride at once: one element behind the row",
            "first + ${step} * (t + LANES) <= length",
            "first + ${step} * (t + LANES) <= length + 1",
            REMAINDERS,
        ),
    ],
    "templates/common/ends.cl.mako": [
        (
            "sums made again read one position too far",
            "at / ${stride} < out_length",
            "at / ${stride} <= out_length",
            NOT_FINITE,
        )
    ],
    "templates/common/epilogue.cl.mako": [
        (
            "the residual is read with the result's batch stride",
            'load_${positions}(${row_of("residual")},',
            'load_${positions}(${row_of("residual").replace("residual_batch", "y_batch")},',
            PLACES,
        ),
        (
            "the bias's offset is left out",
            "load(bias + bias_offset + ${channel})",
            "load(bias + ${channel})",
            PLACES,
        ),
        ("gelu is a little off", "-0.70710678118654752440${f}", "-0.7071${f}", EPILOGUE),
        (
            "relu makes a zero of NaN",
            "return v < (VECTOR)0.0${f} ? (VECTOR)0.0${f} : v;",
            "return v > (VECTOR)0.0${f} ? v : (VECTOR)0.0${f};",
            FUNCTIONAL,
        ),
        (
            "sigmoid's sign",
            "return 1.0${f} / (1.0${f} + exp(-v));",
            "return 1.0${f} / (1.0${f} + exp(v));",
            EPILOGUE,
        ),
    ],
    "templates/direct/forward_direct.cl.mako": [
        (
            "the first window begins before the row",
            "(long)first * STRIDE >= pad",
            "(long)first * STRIDE + 1 >= pad",
            ON_GPU,
        ),
        (
            "the last window reaches beyond the row",
            "(KERNEL_SIZE - 1) * DILATION - pad < length",
            "(KERNEL_SIZE - 1) * DILATION - pad <= length",
            REMAINDERS,
        ),
        (
            "weights of channels behind the last one are read",
            "(o + (i) < GROUP_OUT ? (i) : GROUP_OUT - 1 - o)",
            "(i)",
            OCLGRIND,
        ),
    ],
    "templates/direct/input_gradient_direct.cl.mako": [
        (
            "zeros behind the row count as products",
            "there[j] = (at >= 0) & (at < out_length);",
            "there[j] = at >= 0;",
            NOT_FINITE,
        ),
        (
            "a phase that has no taps has one",
            "r % COMMON == 0 && k0 < KERNEL_SIZE ? (KERNEL_SIZE - 1 - k0) / TAP_STEP + 1 : 0",
            "r % COMMON == 0 ? (KERNEL_SIZE - 1 - k0) / TAP_STEP + 1 : 0",
            WIDE_STRIDE,
        ),
        (
            "phases begin at 0, whatever the padding",
            "const int first = pad / STRIDE + block * GROUP_STEP",
            "const int first = block * GROUP_STEP",
            REMAINDERS,
        ),
    ],
    "templates/common/products.cl.mako": [
        (
            "no barrier between filling a slab and reading it",
            "                barrier(CLK_LOCAL_MEM_FENCE);\n                if (first + DEPTH",
            "                if (first + DEPTH",
            SHAPES,
        ),
        (
            "no barrier before results leave local memory",
            "            barrier(CLK_LOCAL_MEM_FENCE);\n            UNROLL for (int h",
            "            UNROLL for (int h",
            GEMM,
        ),
    ],
    "templates/gemm/convolution_gemm.cl.mako": [
        (
            "terms behind the last one are not zero on the left",
            "v = t < terms ? v : (SUM)0;",
            ";",
            NOT_FINITE,
        ),
        (
            "one position behind the row counts",
            "const int ok = (uint)p < (uint)LIMIT && t < terms;",
            "const int ok = (uint)p <= (uint)LIMIT && t < terms;",
            GEMM,
        ),
        (
            "a phase's shift is left out",
            "pad / STRIDE + shift - (int)i * TAP_BACK",
            "pad / STRIDE - (int)i * TAP_BACK",
            GEMM,
        ),
    ],
    "templates/gemm/convolution_gemv.cl.mako": [
        ("padding is not zero", "ok >> j & 1 ? sums[i][j] : ", "1 ? sums[i][j] : ", FEW_COLUMNS),
        (
            "columns go on behind the last position of a batch element",
            "const int next = q + 1 < positions;",
            "const int next = q < positions;",
            FEW_COLUMNS,
        ),
    ],
    "templates/window/convolution_window.cl.mako": [
        (
            "no barrier before the strip is filled anew",
            "barrier(CLK_LOCAL_MEM_FENCE);\n% if block < channels:",
            "% if block < channels:",
            OCLGRIND_GPU,
        ),
        (
            "the last tile's missing channels are stored",
            'item < ACTIVE && p < out_length${"" if exact else " && row_first + i < ROWS"};',
            "item < ACTIVE && p < out_length;",
            WINDOW,
        ),
    ],
    "templates/window/window.cl.mako": [
        (
            "what lies before the row is read",
            "const int ok = (uint)p < (uint)(${limit});",
            "const int ok = p < (${limit});",
            WINDOW,
        )
    ],
    "templates/direct/weight_gradient_direct.cl.mako": [
        (
            "a window that reaches beyond the row is taken for a whole one",
            "(length - 1 - shift_max) / STRIDE + 1",
            "(length - shift_max) / STRIDE + 1",
            REMAINDERS,
        ),
        (
            "shares of groups overlap",
            "(long)share * GROUPS * GROUP_OUT * TAPS",
            "(long)share * GROUP_OUT * TAPS",
            NAMED,
        ),
    ],
    "templates/depthwise/weight_gradient_depthwise.cl.mako": [
        (
            "the bias has the weights' momentum",
            "sum_lanes(bias_sums), shares, scale, bias_momentum",
            "sum_lanes(bias_sums), shares, scale, momentum",
            LAUNCHES,
        ),
        (
            "the last window reaches beyond the row",
            "length - REACH + pad < end ? length - REACH + pad : end",
            "length - REACH + pad < end ? length - REACH + pad + 1 : end",
            REMAINDERS,
        ),
    ],
    "templates/strip/weight_gradient_strip.cl.mako": [
        ("channels behind the last one are stored", "if (o >= GROUP_OUT) break;", ";", NAMED),
        (
            "every block of channels stores a bias gradient",
            "if (c_first == 0) {\n            const long channel",
            "{\n            const long channel",
            ACCURACY + "'test_named_problem and many'",
        ),
        (
            "taps behind the last one are read",
            "const int tap = t < tap_count ? t : tap_count - 1;",
            "const int tap = t;",
            OCLGRIND,
            "what is read lies inside the strip, and its sums are not stored: it does no harm",
        ),
        (
            "the bias has the weights' momentum",
            "shares, scale, bias_momentum);",
            "shares, scale, momentum);",
            LAUNCHES,
        ),
    ],
    "templates/window/weight_gradient_window.cl.mako": [
        (
            "no barrier before sums take the strip's place",
            "        barrier(CLK_LOCAL_MEM_FENCE);\n        if (item < USED * SLICES)",
            "        if (item < USED * SLICES)",
            OCLGRIND_GPU,
        )
    ],
    "templates/gemm/weight_gradient_gemm.cl.mako": [
        ("a row has one position too many", "if (q >= out_length) {", "if (q > out_length) {", GEMM)
    ],
    "templates/common/sum_partials.cl.mako": [
        ("the bias has the weights' momentum", "scale, bias_momentum", "scale, momentum", SHARES),
        (
            "the first channel's bias goes to the weights",
            "if (i >= weights)",
            "if (i > weights)",
            SHARES,
        ),
        ("the result's offset is left out", "result + result_offset + i", "result + i", PLACES),
    ],
    "templates/elementwise/fingerprint.cl.mako": [
        (
            "an even number of changed signs is not seen",
            "* PRIME << HALF | ((state) ^ (word)) * PRIME >> HALF)",
            "* PRIME)",
            "tests/test_memory_kinds.py -k fingerprint",
        )
    ],
    "calls/causal.py": [
        (
            "results may lie on one another",
            'one.expect_places("out", "out_final")',
            "pass",
            SEQUENCE_OUTS,
        ),
        ("nothing takes a launch", "if not any(need):", "if False:", SEQUENCE_OUTS),
    ],
    "templates/causal/causal.cl.mako": [
        (
            "the numbers of two positions alone are compared",
            "for (int i = 1; i < count; ++i) same &=",
            "for (int i = 1; i < 2; ++i) same &=",
            SEQUENCES,
        ),
        (
            "NaN of another sequence is multiplied by zero",
            "select((VECTOR)0, product, ",
            "product * select((VECTOR)0, (VECTOR)1, ",
            SEQUENCES,
        ),
        (
            "the derivative of silu has a wrong sign",
            "(1.0${f} + v * (1.0${f} - sigmoid))",
            "(1.0${f} - v * (1.0${f} - sigmoid))",
            SEQUENCES,
        ),
    ],
    "templates/causal/causal_rows.cl.mako": [
        (
            "states are read one too late",
            "load(before + (BEFORE + p + e) * step)",
            "load(before + (BEFORE + p + e - (p + e < -1)) * step)",
            SEQUENCES,
        ),
        (
            "gradients of the last samples are lost",
            "if (i >= 0 && i < BEFORE)",
            "if (i > 0 && i < BEFORE)",
            SEQUENCES,
        ),
    ],
    "templates/causal/causal_channels.cl.mako": [
        (
            "a tile that begins in the states is whole",
            "const int whole = first >= BEFORE && first",
            "const int whole = first >= BEFORE - 1 && first",
            SEQUENCES,
        ),
        (
            "a tile of two sequences is whole",
            "one_sequence(numbers, first - BEFORE, TILE + BEFORE)",
            "one_sequence(numbers, first - BEFORE, TILE + BEFORE - 1)",
            SEQUENCES,
        ),
    ],
    "templates/causal/causal_channels_weight.cl.mako": [
        (
            "later units replace the sums of earlier ones",
            "at[(long)e * step] = new ? v.lane[e]",
            "at[(long)e * step] = 1 ? v.lane[e]",
            SEQUENCES,
        )
    ],
    "templates/causal/causal_rows_weight.cl.mako": [
        (
            "padding counts in the gradient of the weights",
            "== here) & (here >= 0);",
            "== here);",
            SEQUENCES,
        ),
        (
            "gradients of zero behind a row meet its samples",
            "const long left = length - (p > q ? p : q);",
            "const long left = length - p;",
            SEQUENCE_OUTS,
        ),
    ],
    "templates/causal/causal_update.cl.mako": [
        (
            "a ring does not go on at its begin",
            "(begin + p < 0 ? state_length : 0)",
            "(begin + p < -1 ? state_length : 0)",
            SEQUENCES,
        ),
        (
            "states that a longer update replaces move out of bounds",
            "const long skipped = length > state_length ? length - state_length : 0;",
            "const long skipped = 0;",
            SEQUENCES,
        ),
    ],
    "torch/in_transformers.py": [
        ("steps with gradients lose them", "if not graded and _takes", "if _takes", SEQUENCES),
        (
            "initial states are lost",
            '"seq_idx", "initial_states", "return',
            '"seq_idx", "return',
            SEQUENCES,
        ),
        (
            "modules that are imported later are left",
            "return lambda function: _redirected(name, decorator(function))",
            "return decorator",
            SEQUENCES,
        ),
    ],
    "templates/elementwise/copy.cl.mako": [
        (
            "two strides are exchanged",
            "b * x_stride_1 + c * x_stride_2",
            "c * x_stride_1 + b * x_stride_2",
            ARRAYS,
        )
    ],
    "templates/elementwise/pad.cl.mako": [
        ("reflection repeats the edge", "2 * (length - 1) - q", "2 * length - 1 - q", PAD),
        ("wrapping goes the wrong way", "q < 0 ? q + length", "q < 0 ? -q", PAD),
    ],
    "templates/elementwise/pad_gradient.cl.mako": [
        (
            "the last reflected sample is forgotten",
            "p >= length - 1 - right",
            "p > length - 1 - right",
            PAD,
        ),
        (
            "the sides of a wrapped padding are exchanged",
            "if (p >= length - left)",
            "if (p >= length - right)",
            PAD,
        ),
    ],
    "templates/elementwise/update.cl.mako": [
        ("the step goes uphill", "rate * load(x", "-rate * load(x", LAYERS)
    ],
    "templates/elementwise/convert.cl.mako": [
        (
            "float64 is rounded twice on its way to float16",
            "as_float((bits - (away ? 1u : 0u)) | 1u)",
            "f",
            "tests/test_layers.py -k rounded_once",
        ),
        (
            "whole numbers are rounded twice on their way to bfloat16",
            "((size & lost) != 0 ? lost + 1 : 0)",
            "0",
            BFLOAT16,
        ),
    ],
    "templates/common/bfloat16.cl.mako": [
        ("ties go to the odd number", "+ ((u >> 16) & 1u)", "+ 1u", BFLOAT16),
        ("NaN becomes infinity", "? (u >> 16) | 0x40u : rounded", "? 0x7f80u : rounded", BFLOAT16),
        ("bfloat16 is widened a bit off", "<< 16); }", "<< 15); }", BFLOAT16),
    ],
    "geometry.py": [
        (
            "the odd sample of 'same' goes to the left",
            "return _halves(window - 1)",
            "return _halves(window - 1, odd_first=True)",
            PROBLEM,
        ),
        (
            "output_padding as wide as the stride passes",
            "if extra > result.most_output_padding:",
            "if extra > result.most_output_padding + 1:",
            FUNCTIONAL,
        ),
        (
            "the shortest input of a transposed convolution is rounded down",
            "max(-((first - out_length) // stride) + 1, 1)",
            "max((out_length - first) // stride + 1, 1)",
            PROBLEM,
        ),
        (
            "SAME rounds the length down",
            "reached_by(-(-length // stride), window",
            "reached_by(length // stride, window",
            ONNX,
        ),
        (
            "a wide output_shape is ignored",
            "output_padding=self.output_padding + max(-surplus, 0)",
            "output_padding=self.output_padding",
            ONNX,
        ),
        (
            "samples that no window reaches are not skipped",
            "max(left - passed, 0), max(start - length, 0))",
            "max(left - passed, 0), 0)",
            STREAMING,
        ),
        (
            "padding before the signal is forgotten after a chunk",
            "max(left - passed, 0), max(start - length, 0))",
            "0, max(start - length, 0))",
            STREAMING,
        ),
        (
            "latency ignores earlier strides",
            "latency += its_latency * stride",
            "latency += its_latency",
            STREAMING,
        ),
    ],
    "problem.py": [
        (
            "output_padding beyond every window lengthens the gradients' rows",
            "cropped=max(extra - right, 0) // one.stride * one.stride,",
            "cropped=0,",
            TRANSPOSED,
        ),
        (
            "output_padding beyond every window is counted in strides",
            "cropped=max(extra - right, 0) // one.stride * one.stride,",
            "cropped=max(extra - right, 0) // one.stride,",
            TRANSPOSED,
        ),
        (
            "output_padding takes nothing from the padding",
            "(left, max(right - extra, 0)),",
            "(left, right),",
            TRANSPOSED,
        ),
        (
            "phases are counted without the padding's part of one",
            "return (left + self.length - 1) // self.stride - left // self.stride + 1",
            "return (self.length - 1) // self.stride + 1",
            REMAINDERS,
        ),
        (
            "cropped samples are within reach",
            "return self.length + sum(self.pads) - self.cropped",
            "return self.length + sum(self.pads)",
            PROBLEM,
        ),
    ],
    "planning/planner.py": [
        (
            "predictions of no batch decide",
            "if not request.problem.batch:  # of which nothing is predicted",
            "if False:",
            SPECTRAL + " -k may_take",
        ),
        (
            "copies cost nothing",
            "return of_x + of_y, copied(request.device, elements, problem.dtype.itemsize)",
            "return of_x + of_y, 0.0",
            LAYOUTS,
        ),
        (
            "what decides does not",
            "if not deciding or not others:",
            "if True:",
            SPECTRAL + " -k choice",
        ),
        (
            "a layer's record goes first at any size",
            "if known.covers(request.problem, request.pass_):",
            "if True:",
            SHIPPED,
        ),
        (
            "the first record of a layer ends the look-up, candidate or not",
            '_log.debug("%s is no candidate for this layer", known.choice)',
            "return ordered",
            SHIPPED,
        ),
        (
            "short rows are compared by what they take in proportion",
            "key=lambda named: _rank(KernelPlan(request, *named).predicted)",
            "key=lambda named: _rank(KernelPlan(request, *named).cost_parts)",
            SPECTRAL + " -k short_rows",
        ),
        (
            "a plan that just fits the limit is refused",
            "plan.workspace_bytes <= limit:",
            "plan.workspace_bytes < limit:",
            PLANNING,
        ),
        ("plans are not sorted", "(named[1].measured_only, _rank(named[1].cost))", "0", PLANNING),
        (
            "a layer's kernels are kept without their epilogue",
            "designs(problem.layer, pass_, device, epilogue, variant",
            "designs(problem.layer, pass_, device, Epilogue(), variant",
            PLANNING,
        ),
        (
            "what runs is what a typical problem needs",
            "return self.design.schedule(self.request)",
            "return self.design.schedule(\n"
            "            Request(self.problem.layer.typical(), self.pass_, self.request.device)\n"
            "        )",
            COLUMNS,
        ),
        ("the chosen plan comes a second time", "*found[place + 1 :])", "*found[place:])", TUNING),
    ],
    "planning/shipped.py": [
        (
            "the default goes before the device",
            "key=lambda one: one[0].rank",
            "key=lambda one: -one[0].rank",
            SHIPPED,
        ),
        (
            "records of another architecture are taken",
            "return names and facts and self.vendor",
            "return names and self.vendor",
            SHIPPED,
        ),
        (
            "records of another platform are taken",
            "((None, None), (device, platform))",
            "((None, None), (device, self.platform))",
            SHIPPED,
        ),
        (
            "a layer's record is for the first size alone",
            "(max(rows), max(every))",
            "(min(rows), min(every))",
            SHIPPED,
        ),
    ],
    "planning/cost.py": [
        (
            "what passes beside something longer counts",
            "into = self.add if group is longest else self.hide",
            "into = self.add",
            COST,
        ),
        (
            "a plan's launches are as many as its work",
            "return Cost(**scaled, launch=self.launch, hidden=hidden)",
            "return Cost(**scaled, launch=times * self.launch, hidden=hidden)",
            COST,
        ),
        (
            "wider vectors than a core's units take are as fast",
            "multiply_add=max(size / device.multiply_add_bytes, least),",
            "multiply_add=least,",
            COST,
        ),
    ],
    "planning/profiles.py": [
        (
            "another system's cores are those of x86-64",
            'if machine.lower() in ("aarch64", "arm64"):',
            "if False:",
            PLANNING,
        ),
        (
            "a profile to plan for has its own limits",
            "local_bytes=min(self.local_bytes, own.local_bytes),",
            "local_bytes=self.local_bytes,",
            PLANNING,
        ),
    ],
    "variants/base.py": [
        (
            "grids are not bounded",
            "return max(1, min(count, MAX_GROUPS))",
            "return max(1, count)",
            PLANNING,
        ),
        (
            "work-groups are twice as large as the device takes",
            "return 1 << (max(most, 1).bit_length() - 1)",
            "return 1 << max(most, 1).bit_length()",
            PLANNING,
        ),
        (
            "partial sums ignore the limit",
            "return float(most if request.workspace_limit is None else "
            "min(most, request.workspace_limit))",
            "return float(most)",
            PLANNING,
        ),
        (
            "the workspace has no room for the bias's sums",
            "count = share_sums(request.problem, bias)",
            "count = share_sums(request.problem, False)",
            SHARES,
        ),
        (
            "the kernel that adds shares is none of the design's",
            "return Design(tile, (kernel, adding), cost, both, predicted=predicted)",
            "return Design(tile, (kernel,), cost, both)",
            PLANNING,
        ),
        ("a single share takes a workspace", "if shares == 1:", "if shares == 0:", PLANNING),
    ],
    "variants/strip/convolution.py": [
        (
            "nobody waits for the last tasks",
            "rounded(tasks, geometry.request.device.compute_units) / tasks",
            "1.0",
            COST,
        ),
        (
            "the paddings are exchanged",
            '"pad": problem.pads[0],',
            '"pad": problem.pads[1],',
            ACCURACY + "'test_named_problem and left'",
        ),
        (
            "the last rows of the batch get no task",
            '"position_blocks": ceil_div(problem.batch, blocks.block_rows) * chunks,',
            '"position_blocks": problem.batch // blocks.block_rows * chunks,',
            NAMED,
        ),
        (
            "phases reach back too little",
            "0 if geometry.forward else problem.phase_reach[0]",
            "0 if geometry.forward else problem.phase_reach[0] + 1",
            NAMED,
        ),
        (
            "a schedule has other vectors than the kernel",
            "there = Geometry(replace(wanted, device=request.device))",
            "there = Geometry(wanted)",
            WIDE_VECTORS,
        ),
    ],
    "variants/strip/weight_gradient.py": [
        (
            "the last rows of the batch are no unit",
            "units = ceil_div(problem.batch, blocks.unit_rows) * chunks",
            "units = problem.batch // blocks.unit_rows * chunks",
            NAMED,
        )
    ],
    "variants/depthwise/__init__.py": [
        (
            "a stride is taken that it cannot serve",
            "if problem.stride > 1:",
            "if problem.stride > 2:",
            ACCURACY + "'test_named_problem and depth'",
        )
    ],
    "templates/pointwise/convolution_pointwise.cl.mako": [
        (
            "a row's last place reaches beyond the row",
            "at < positions - PLACE ? (int)at : positions - PLACE;",
            "at < positions - PLACE ? (int)at : positions - PLACE + 1;",
            POINTWISE,
        ),
        (
            "spilled sums are stored as if they were whole",
            "if (c_first + TERM_BLOCK < term_count) {",
            "if (c_first + TERM_BLOCK + 1 < c_count) {",
            POINTWISE,
        ),
        (
            "zeros times infinite weights count in a gradient",
            "from[j * LANES + e] == NOWHERE ? (SUM)0 : own.lane[e];",
            "from[j * LANES + e] == NOWHERE - 1 ? (SUM)0 : own.lane[e];",
            POINTWISE,
        ),
    ],
    "templates/pointwise/flat.cl.mako": [
        (
            "an element behind the row is read where there is padding",
            "p >= 0 && p < x_length ?",
            "p >= 0 && p <= x_length ?",
            POINTWISE,
        ),
        (
            "lanes of different rows are taken for neighbours",
            "return rows[0] >= 0 && rows[0] == rows[LANES - 1];",
            "return rows[0] >= 0;",
            POINTWISE,
        ),
        (
            "rows in reverse are taken for nothing",
            "#define NOWHERE LONG_MIN",
            "#define NOWHERE -1L",
            POINTWISE,
        ),
    ],
    "variants/pointwise/convolution.py": [
        (
            "a row's last place may be alone in a task, and two tasks write the same",
            "places > 1 and places % size == 1 % size",
            "places > 1 and size > places",
            POINTWISE,
        ),
        (
            "the input gradient of padded rows is read from their beginning",
            "else (problem.out_length, left)",
            "else (problem.out_length, 0)",
            POINTWISE,
        ),
    ],
    "variants/depthwise/convolution.py": [
        (
            "the input gradient is a position off",
            "lead=left if forward else problem.window - 1 - left,",
            "lead=left if forward else problem.window - left,",
            ACCURACY + "'test_named_problem and depth'",
        ),
        (
            "a schedule has the batch of the typical problem",
            "rows = problem.batch * channels",
            "rows = request.problem.batch * channels",
            ACCURACY + "'test_named_problem and depth'",
        ),
    ],
    "variants/gemm/convolution.py": [
        (
            "the last columns get no block",
            "blocks = ceil_div(products.columns, tile.columns)",
            "blocks = max(1, products.columns // tile.columns)",
            GEMM,
        ),
        (
            "few columns have the kernel for many",
            "return few_columns_pay(matrices, tile, few) if wanted is None",
            "return False if wanted is None",
            COLUMNS,
        ),
        (
            "the kernel for few columns is none of the design's",
            "kernels = (kernel,) if few_kernel is None else (kernel, few_kernel)",
            "kernels = (kernel,)",
            COLUMNS,
        ),
    ],
    "variants/window/weight_gradient.py": [
        (
            "units behind the last whole one are dropped",
            "row_units = ceil_div(problem.out_length, positions)",
            "row_units = max(1, problem.out_length // positions)",
            WINDOW,
        )
    ],
    "drivers/discovery.py": [
        (
            "a forked child takes the drivers down at its end, where Intel's runtime waits",
            "on_exit(end, None)",
            "pass",
            "tests/test_reliability.py -k cleans_up",
        ),
        (
            "fewer compute units go first",
            '-found["compute_units"],',
            'found["compute_units"],',
            RUNTIME,
        ),
        (
            "an instruction cache counts as one of data",
            'if level in names and kind != "Instruction" and',
            "if level in names and",
            RUNTIME,
        ),
    ],
    "drivers/probe.py": [
        (
            "findings are kept without the driver's variables",
            "        json.dumps(settings.driver_choices()),\n",
            "",
            REMEMBERED,
        ),
        ("findings are kept without the processor", "        _processor(),\n", "", REMEMBERED),
        ("a lack of memory is kept", "    if lasting:\n", "    if True:\n", REMEMBERED),
    ],
    "drivers/icd.py": [
        (
            "the folder loses the system's files but for the last",
            "found[path.name] = path.read_text()",
            "found = {path.name: path.read_text()}",
            ANNOUNCED,
        ),
        (
            "a driver that the system has is announced again",
            "if any(Path(text.strip()).name.startswith(known) for text in texts.values()):",
            "if False:",
            ANNOUNCED,
        ),
    ],
    "disk.py": [
        (
            "the newest binaries go",
            "for one in oldest[: len(names) - most]:",
            "for one in oldest[most:]:",
            BINARIES,
        ),
        (
            "what another still writes is removed",
            "if time.time() - _written(left) > ABANDONED_SECONDS:",
            "if True:",
            TUNING,
        ),
    ],
    "drivers/binaries.py": [
        (
            "parts of a key run into each other",
            'digest.update(f"{len(encoded)}:".encode() + encoded)',
            "digest.update(encoded)",
            BINARIES,
        ),
        (
            "a binary's checksum is not looked at",
            "if content[:header] != MAGIC + hashlib.sha256(binary).digest():",
            "if content[: len(MAGIC)] != MAGIC:",
            BINARIES,
        ),
    ],
    "planning/records.py": [
        (
            "another driver's records count",
            "return _read(self.path, self.device).records.get((key, self.driver, VERSION))",
            "every = _read(self.path, self.device).records.values()\n"
            "        return next((one for one in every if one.key == key), None)",
            TUNING,
        ),
        (
            "threads that write take no lock of their own",
            "with _writing, open(path",
            "with open(path",
            TUNING,
            "flock keeps threads apart too where the tests run; the lock is for systems where not",
        ),
        ("writers of other processes are not locked out", "        _lock(file)\n", "", TUNING),
        (
            "an older record takes the place of a newer one",
            "{**there.records, **new}",
            "{**new, **there.records}",
            TUNING,
        ),
        ("the newest records go", "kept[-RECORDS_KEPT:]", "kept[:RECORDS_KEPT]", TUNING),
        (
            "hints for other sizes come before those for this one",
            "        akin.sort(key=lambda record: record.key != key)\n",
            "",
            TUNING,
        ),
        ("a file of another device is read", 'if fields["device"] != device:', "if False:", TUNING),
        (
            "a choice that was not timed counts",
            "if not any(one.choice == choice and one.median_us is not None for one in candidates):",
            "if False:",
            TUNING,
        ),
        (
            "a file that changed in place is not read again",
            "(state.st_ino, state.st_mtime_ns, state.st_size)",
            "(state.st_ino,)",
            TUNING,
        ),
        (
            "cropped samples are not recorded",
            '"cropped": problem.cropped,',
            '"cropped": 0,',
            TUNING,
        ),
    ],
    "bounded.py": [
        (
            "what is kept goes by age, not by use",
            "                self._entries.move_to_end(key)\n            return value",
            "                pass\n            return value",
            RUNTIME,
        )
    ],
    "drivers/programs.py": [
        (
            "threads share kernels",
            "self._threads = threading.local()",
            'self._threads = type("Shared", (), {})()',
            LAUNCHES,
        ),
        (
            "a refused kernel is compiled again",
            "self._refused.set_default(source, error)",
            "pass",
            RUNTIME,
        ),
        (
            "who waits for an interrupted build waits for ever",
            "self._programs.drop(source, mine)",
            "pass",
            THREADS,
        ),
        (
            "a device that takes no such work-groups is not noticed",
            "if most >= items:",
            "if True:",
            RUNTIME,
        ),
        (
            "binaries of one driver are another's",
            '" ".join(BUILD_OPTIONS), *self.identity, *more)',
            '" ".join(BUILD_OPTIONS), *more)',
            BINARIES,
        ),
    ],
    "drivers/finished.py": [
        (
            "kernels count as finished that the driver no longer has",
            "return all(Path(one).is_file() for one in paths)",
            "return True",
            WARM_UP,
        )
    ],
    "drivers/workers.py": [
        (
            "wide grids are not launched ahead",
            "if job.wide:\n        grids",
            "if False:\n        grids",
            WARM_UP,
        ),
        (
            "whoever is interrupted waits for all that is left",
            "threads.shutdown(wait=False, cancel_futures=True)",
            "pass",
            WARM_UP,
        ),
        ("a process that ended is not noticed", "if answer == DONE:", "if True:", WARM_UP),
    ],
    "rehearsal.py": [
        (
            "kernels that only other lengths need are left out",
            "[*(one.launch(one.local_size) for one in self._kernels), *self._launches]",
            "[*self._launches]",
            WARM_UP,
        ),
        ("copies of views are not built ahead", "self._launches[launch] = None", "pass", WARM_UP),
        (
            "states change where nothing runs",
            "if array.size and not any(array is one for one in reads):",
            "if array.size:",
            SEQUENCES,
        ),
    ],
    "torch/warming.py": [
        ("statistics of the rehearsal stay", "buffer.copy_(values)", "pass", WARM_UP),
        (
            "random numbers are drawn",
            "torch.random.fork_rng(devices=[])",
            "torch.enable_grad()",
            WARM_UP,
        ),
        (
            "refused kernels are not planned around",
            "if not rehearsal.refused():",
            "if True:",
            WARM_UP,
        ),
    ],
    "drivers/memory.py": [
        (
            "the pool's lock is not taken to allocate",
            "with self._allocating:\n            # What the pool holds",
            "if True:\n            # What the pool holds",
            RUNTIME,
        ),
        (
            "the pool's lock is not taken to trim",
            "with self._allocating:\n            self.pool.free_held()",
            "if True:\n            self.pool.free_held()",
            RUNTIME,
        ),
        (
            "arrays of one outline share their events",
            "        array.events = []\n        return array",
            "        return array",
            LAUNCHES,
        ),
    ],
    "drivers/registry.py": [
        (
            "the default runtime is the outermost",
            "return entered[-1]",
            "return entered[0]",
            RUNTIME,
        ),
        (
            "arrays get the runtime that was entered first",
            "for runtime in reversed(self._blocks.stack):",
            "for runtime in self._blocks.stack:",
            RUNTIME,
        ),
    ],
    "runtime.py": [
        (
            "events of other queues are not waited for",
            "if queue is None or queue.int_ptr != own:\n                    waits.append(event)",
            "if queue is None:\n                    waits.append(event)",
            FUNCTIONAL,
        ),
        ("results carry no event", "array.events[:] = [event]  #", "pass  #", FUNCTIONAL),
        (
            "memory of other queues' arrays is not kept",
            "self._foreign.append((event, tuple(a.base_data for a in foreign)))",
            "pass",
            LAUNCHES,
        ),
        (
            "other queues cannot wait for those who read their arrays",
            "if event not in array.events:",
            "if False:",
            LAUNCHES,
        ),
        ("recipes outlive a search", "        self.recipes.clear()", "        pass", TUNING),
        (
            "uploads keep the order of a view",
            'device.set(np.asarray(host, order="C"))',
            "device.set(host.ravel(order='K').reshape(host.shape))",
            ARRAYS,
        ),
        (
            "filling forgets an array's offset",
            "pattern, array.offset, array.nbytes",
            "pattern, 0, array.nbytes",
            RUNTIME,
        ),
        (
            "kernels that only other sizes need are not built",
            "for kernel in plan.kernels:",
            "for kernel in (one.kernel for one in plan.launches):",
            "tests/test_runtime.py -k only_other_sizes",
        ),
    ],
    "calls/elementwise.py": [
        (
            "conversion has the wider type's loads",
            "return min(floating,",
            "return max(floating,",
            LAYERS,
        ),
        (
            "copies into a view forget where it starts",
            "_start(target) + start // size",
            "start // size",
            LAYERS,
        ),
        (
            "a step of a view is not copied back",
            "    if y is not target:\n        copy_view(runtime, y, target)",
            "    pass",
            LAYERS,
        ),
        (
            "a gradient that is a view is read as contiguous",
            "    grad = contiguous(runtime, grad)\n",
            "",
            LAYERS,
        ),
    ],
    "gpuarray.py": [
        (
            "pieces follow each other by the views' strides",
            "start += array.shape[axis] * result.strides[axis]",
            "start += array.shape[axis] * array.strides[axis]",
            ARRAYS,
        )
    ],
    "layers/copying.py": [
        (
            "a deep copy shares its arrays",
            "memo[id(one)] = copy_array(one)",
            "memo[id(one)] = one",
            COPIES,
        ),
        (
            "an array is pickled as often as it comes",
            "return _pickled.setdefault(id(value), _Pickled(value))",
            "return _Pickled(value)",
            COPIES,
        ),
    ],
    "calls/layouts.py": [
        (
            "arrays in shared virtual memory lie where their pieces begin",
            '"data": (start + array.offset, True),',
            '"data": (start, True),',
            MEMORY_KINDS,
        )
    ],
    "calls/options.py": [
        ("True, 1 and 1.0 are one key", "return kinds, options", "return options", LAUNCHES)
    ],
    "calls/draft.py": [
        (
            "prepared weights serve any stride",
            'for name in ("stride", "dilation", "groups"):',
            'for name in ("dilation", "groups"):',
            CONTRACT,
        ),
        (
            "a shape is told in the order of kernels",
            "found, shape = self.as_seen(found), self.as_seen(shape)",
            "pass",
            LAYOUTS,
        ),
        (
            "two positions that are not neighbours are taken for neighbours",
            "shape[-1] == 1 else Lies.STRIDED",
            "shape[-1] <= 2 else Lies.STRIDED",
            FUNCTIONAL,
        ),
        (
            "a choice for one pass is taken for every pass",
            "choice = variant.get(pass_)",
            "choice = next(iter(variant.values()), None)",
            LAUNCHES,
        ),
        (
            "kernels leave the gaps of NumPy outs",
            "if self._outs_copied or name not in self.given:",
            "if name not in self.given:",
            SEQUENCE_OUTS,
        ),
        (
            "views of integers have strides of the samples' size",
            "size = self.layouts[name].dtype.itemsize",
            "size = self.dtype.itemsize",
            SEQUENCE_OUTS,
        ),
    ],
    "calls/recipes.py": [
        (
            "the residual's shape is not checked",
            '    draft.expect("residual", shape)\n',
            "",
            FUNCTIONAL,
        ),
        (
            "a bias without an old one has a momentum",
            '{} if "out_bias" in draft.given else {"bias_momentum": 0.0}',
            "{}",
            SHARES,
        ),
        (
            "an absent out has a momentum",
            'numbers_ = {**numbers_, "momentum": 0.0}',
            "numbers_ = {**numbers_}",
            LAUNCHES,
        ),
        (
            "a bias that was summed on the way is added again",
            'name == "out_bias" and summed[:1] == [True]',
            "False",
            SHARES,
        ),
        (
            "what sums the bias at other sizes is not built",
            "if not all(summed):",
            "if False:",
            SPECTRAL + " -k no_length_compiles",
        ),
        (
            "the bias of a transposed convolution is summed from its input",
            "together = all(need[1:]) and not transposed",
            "together = all(need[1:])",
            TRANSPOSED,
        ),
    ],
    "calls/call.py": [
        (
            "prepared weights of another runtime are taken",
            "self.prepared.runtime is not self.runtime",
            "False",
            CONTRACT,
        ),
        (
            "a recipe's key forgets the workspace limit",
            "runtime.workspace_limit",
            "runtime",
            LAUNCHES,
        ),
        (
            "a recipe's key forgets which array is which",
            "key = (make, named, *self.arrays, *layouts,",
            "key = (make, named, *layouts,",
            LAUNCHES,
        ),
        (
            "a recipe's key forgets the fourth option: groups",
            "named = as_key(options)",
            "named = as_key(options[:3] + options[4:])",
            LAUNCHES,
        ),
        (
            "offsets of arrays are dropped",
            "(a.base_data, a.offset // a.dtype.itemsize)",
            "(a.base_data, 0)",
            LAUNCHES,
        ),
        (
            "outs may share bytes with inputs",
            "if len(set(buffers)) < len(buffers):",
            "if False:",
            FUNCTIONAL,
        ),
        (
            "old values of NumPy's outs are not uploaded",
            'counting = ACCUMULATING if numbers_.get("momentum") else frozenset()',
            "counting = frozenset()",
            SHARES,
        ),
        (
            "arrays of other queues are not waited for",
            "reads = [arrays[name] for name in recipe.reads]",
            "reads: list[Any] = []",
            FUNCTIONAL,
        ),
        (
            "arrays that start inside an element pass",
            "if array.offset % size:",
            "if False:",
            LAUNCHES,
        ),
        (
            "accumulations do not wait for each other",
            "late = step.accumulates and waiting is not None",
            "late = False",
            ATOMIC,
        ),
    ],
    "testing.py": [
        (
            "a NaN is within every bound",
            "wrong = ~(np.abs(result - expected) <= bound)",
            "wrong = np.abs(result - expected) > bound",
            CHECKS,
        ),
        (
            "an infinity is right wherever its sign is",
            "(np.sign(result) == np.sign(expected)) & beyond",
            "(np.sign(result) == np.sign(expected)))",
            CHECKS,
        ),
        (
            "the bound is a hundred times as wide",
            "return error / (1 - error)",
            "return 100 * error / (1 - error)",
            CHECKS,
        ),
        (
            "integers are compared as they are",
            "if not is_floating(result.dtype):",
            "if result.dtype == object:",
            CHECKS,
        ),
        (
            "shapes of a pass's arrays are not checked",
            "if name in found and found[name].shape != shape:",
            "if name in found and found[name].ndim != len(shape):",
            CHECKS,
        ),
    ],
    "tuning/__init__.py": [
        (
            "calls go on as before a search",
            "    runtime.records.add([record])\n    replan()\n",
            "    runtime.records.add([record])\n",
            TUNING,
        ),
        ("noise is a gain", "(1 + MARGIN) * ranking", "1 * ranking", TUNING),
        (
            "hints come after the rest",
            "(*hinted, *firsts.values(), *places)",
            "(*firsts.values(), *places, *hinted)",
            TUNING,
        ),
        (
            "memlimit does not count what is kept",
            "p.workspace_bytes + kept <= memlimit",
            "p.workspace_bytes <= memlimit",
            "tests/test_layers.py -k memlimit",
        ),
    ],
    "tuning/bench.py": [
        (
            "a candidate that writes nothing has the last one's results",
            '        self._runtime.fill(self.out, float("nan"))\n',
            "",
            TUNING,
        ),
        (
            "plans share the smallest of their workspaces",
            "max(sizes[one.name], one.nbytes)",
            "min(sizes[one.name] or one.nbytes, one.nbytes)",
            TUNING,
        ),
    ],
    "tuning/verifier.py": [
        (
            "results that differ from the first candidate's win",
            "wrong = int(np.count_nonzero(found != self._first))",
            "wrong = 0",
            TUNING,
        ),
        (
            "results that differ from the reference's win",
            "wrong = _count_wrong(small, found, self._expected, self._values)",
            "wrong = 0",
            TUNING,
        ),
        (
            "a variant with a bound must have equal bits",
            "    if plan.sums_bound is None:\n",
            "    if True:\n",
            "tests/test_contract.py -k verifier",
        ),
        (
            "the last channel is compared with the first's",
            "        weight = weight[:, one]\n",
            "        weight = weight[:, :1]\n",
            "tests/test_contract.py -k channel",
        ),
    ],
    "calls/prepared.py": [
        (
            "nothing derived is kept",
            "if self._kept.set_default(preparation, buffers) is buffers:",
            "if True:",
            CONTRACT,
        )
    ],
    "layers/variable.py": [
        (
            "an update goes unseen",
            "            )\n            self.changed()\n",
            "            )\n",
            CONTRACT,
        ),
        (
            "whoever has the data changes nothing",
            "        self._version = None\n        return self._array",
            "        return self._array",
            CONTRACT,
        ),
        ("a variable's own rate does not count", "learnRate * self.learnRate", "learnRate", LAYERS),
        (
            "a gradient that the other has not stays",
            "                fill(runtime, self.grad, 0)",
            "                pass",
            LAYERS,
        ),
    ],
    "layers/storage.py": [
        (
            "shapes in a file are not checked",
            "if stored.shape != tuple(slot.array.shape):",
            "if False:",
            FILES,
        ),
        ("wider numbers are narrowed", "(both and np.can_cast(dtype, target))", "both", FILES),
        (
            "narrower numbers are not widened on the device",
            "if values.dtype != slot.array.dtype:",
            "if False:",
            FILES,
        ),
        ("a failing save leaves its half behind", "partial.unlink(missing_ok=True)", "pass", FILES),
        (
            "bfloat16 is read a bit off",
            "(bits.astype(np.uint32) << 16)",
            "(bits.astype(np.uint32) << 15)",
            FILES,
        ),
        (
            "bfloat16 beyond float16 becomes infinity",
            "if largest >= HALF_OVERFLOW:",
            "if False:",
            FILES,
        ),
    ],
    "layers/hdf5.py": [
        (
            "another machine's order of bytes stays",
            'dtype = dataset.dtype.newbyteorder("=")',
            "dtype = dataset.dtype",
            FILES,
        ),
        (
            "variables that were read already are read again",
            "if variable not in known:",
            "if True:",
            FILES,
        ),
    ],
    "layers/module.py": [
        (
            "evaluation accumulates gradients",
            "updParamGrads and self.train, updGrad",
            "updParamGrads, updGrad",
            LAYERS,
        ),
        (
            "data of another dtype outlives calcMode",
            "        self.calctype = dtype\n        self.reset()",
            "        self.calctype = dtype",
            LAYERS,
        ),
        (
            "a shared variable is counted twice",
            "table.setdefault(variable, []).append(full)",
            "table[variable] = [full]",
            SEQUENTIAL,
        ),
    ],
    "layers/initialisation.py": [
        ("he draws as xavier", "math.sqrt(2.0 / fan)", "math.sqrt(1.0 / fan)", LAYERS),
        ("the mean of the fans is their sum", "(fan_in + fan_out) / 2", "fan_in + fan_out", LAYERS),
    ],
    "layers/convolution.py": [
        (
            "a variable's new array is not noticed",
            "if kept is None or kept[0] is not array:",
            "if kept is None:",
            LAYERS,
        ),
        (
            "leaky_relu forgets its slope",
            'named = (activation, self._slope) if activation == "leaky_relu" else activation',
            "named = activation",
            ACTIVATIONS,
        ),
        (
            "the activation's derivative is left out",
            "            self._before(grad),",
            "            grad,",
            ACTIVATIONS,
        ),
        ("the gradient's batch is not checked", "if shape[0] != batch:", "if False:", LAYERS),
        (
            "memlimit does not count what is kept",
            "beside = dict.fromkeys(passes, 0) | {passes[0]: kept}",
            "beside = dict.fromkeys(passes, 0)",
            "tests/test_layers.py -k memlimit",
        ),
        (
            "a variable's shape is not checked",
            "if tuple(data.shape) != self._shapes[name]:",
            "if False:",
            LAYERS,
        ),
    ],
    "layers/deconv1d.py": [
        (
            "groups do not count in the fan out",
            "(inmaps * size, outmaps / groups * size)",
            "(inmaps * size, outmaps * size)",
            LAYERS,
        )
    ],
    "layers/pad1d.py": [
        (
            "a signal as long as its reflection passes",
            '"reflect": lambda padding: padding + 1',
            '"reflect": lambda padding: padding',
            PAD,
        )
    ],
    "layers/sequential.py": [
        (
            "a container's gradients do not accumulate unless told",
            "momentum: float = 1.0,",
            "momentum: float = 0.0,",
            SEQUENTIAL,
        ),
        (
            "inner modules compute no input gradient where the first needs none",
            "params, inputs or i > 0, scale",
            "params, inputs, scale",
            SEQUENTIAL,
        ),
        (
            "a failing forward pass leaves modules changed",
            "                restore()\n                if isinstance",
            "                if isinstance",
            SEQUENTIAL,
        ),
        (
            "a shared variable steps twice",
            "for variable in self.getVarTable():\n            variable.update(learnRate)",
            "for module in self.graph:\n            module.updateParams(learnRate)",
            SEQUENTIAL,
        ),
        (
            "evalMode stays with the container",
            "self._each(lambda module: module.evalMode())",
            "pass",
            SEQUENTIAL,
        ),
    ],
    "streaming/samples.py": [
        (
            "a reflection keeps a sample too few",
            "return SOURCES[self.pad1d.mode](padding) if padding",
            "return SOURCES[self.pad1d.mode](padding - 1) if padding",
            STREAMING,
        )
    ],
    "streaming/stream.py": [
        (
            "a chunk that fails changes the stream",
            "            return self._given(signal, self._push(piece))\n"
            "        except BaseException:\n            restore()\n",
            "            return self._given(signal, self._push(piece))\n"
            "        except BaseException:\n",
            STREAMING,
        ),
        (
            "a state that fails to load changes the stream",
            '            self._load(state, "", self.module.runtime)\n'
            "        except BaseException:\n            restore()\n",
            '            self._load(state, "", self.module.runtime)\n'
            "        except BaseException:\n",
            STREAMS,
        ),
    ],
    "streaming/pieces.py": [
        (
            "samples are written over those that are kept",
            "piece.copied_to(signal, self.rows(self.stop))",
            "piece.copied_to(signal, self.rows(self.start))",
            STREAMS,
        )
    ],
    "streaming/convolution.py": [
        (
            "what was computed beyond the last sample is given, too",
            "return result._replace(length=outputs)",
            "return result",
            STREAMS,
        ),
        (
            "the skipped samples are added twice",
            "(residual, target), self.addend = added, None",
            "residual, target = added",
            STREAMS,
        ),
    ],
    "streaming/containers.py": [
        (
            "a branch that is ahead does not wait",
            "rest = history.without(ready) if length > ready else None",
            "rest = None",
            STREAMS,
        )
    ],
    "layers/parallel.py": [
        (
            "branches get the gradient of other maps",
            "found.append(slice(start, start + maps) if",
            "found.append(slice(0, maps) if",
            "tests/test_branches.py",
        )
    ],
    "files.py": [
        (
            "names of a shared tensor may disagree",
            "if other.dtype != stored.dtype or its_raw != raw:",
            "if False:",
            FILES,
        ),
        ("strict is not", "if strict and unexpected:", "if False:", FILES),
    ],
    "onnx/attributes.py": [
        (
            "the odd sample goes to the wrong side",
            'length, taps, mode == "SAME_LOWER")',
            'length, taps, mode == "SAME_UPPER")',
            ONNX,
        ),
        (
            "groups and dilation are exchanged",
            "return Geometry(stride, padding, dilation, group or 1)",
            "return Geometry(stride, padding, group or 1, dilation)",
            ONNX,
        ),
        (
            "pads are taken in the wrong order",
            "return tuple(int(v) for v in value)",
            "return tuple(int(v) for v in reversed(value))",
            ONNX,
        ),
    ],
    "onnx/program.py": [
        (
            "tensors that live at the same time share memory",
            "if its_page != page or stop < first or last < begin:",
            "if its_page != page or stop < last or last < begin:",
            ONNX_MODELS,
        ),
        (
            "no memory is used again",
            "if its_page != page or stop < first or last < begin:",
            "if its_page != page:",
            ONNX_MODELS,
        ),
        (
            "a shape that changed is not seen",
            "raise Changed(key)\n        array = np",
            "pass\n        array = np",
            ONNX_MODELS,
        ),
        (
            "numbers that changed are not seen",
            "if array.dtype != value.dtype or not np.array_equal(array, value):",
            "if False:",
            ONNX_MODELS,
        ),
    ],
    "onnx/expressions.py": [
        (
            "expressions are not joined",
            "joins = pending.shape == shape and pending.is_small",
            "joins = False and pending.is_small",
            ONNX_MODELS,
        ),
        (
            "a place that a pending expression does not fit is not seen",
            "return fits(self.shape, *strides, out=out.strides)",
            "return True",
            ONNX_SHAPES,
        ),
        (
            "an infinity beside NaN is lost",
            'return f"{{0}} != {{0}} ? {{0}} : {made}" if op in DROPS_NAN else made',
            "return made",
            ONNX_NODES,
        ),
    ],
    "onnx/convolutions.py": [
        (
            "a second residual takes the place of the first",
            """        if not self.is_bare:
            return None
        if other.shape""",
            """        if other.shape""",
            ONNX_MODELS,
        ),
        (
            "two layers of one weight share what is folded",
            'what = "folded", epsilon, axis, self.weight_shape',
            'what = "folded", epsilon',
            ONNX_SHAPES,
        ),
    ],
    "onnx/recording.py": [
        (
            "what a plan reads is not copied",
            "self._copy(step.before, own)",
            "self._copy((), own)",
            ONNX_SHAPES,
        ),
        (
            "what a plan writes is not copied back",
            "self._copy(step.after, own)",
            "self._copy((), own)",
            ONNX_SHAPES,
        ),
    ],
    "onnx/tracing.py": [
        (
            "a shape that a node on the host gives is taken for granted",
            "if not x.is_on_device and not x.constant:",
            "if False:",
            ONNX_SHAPES,
        ),
        (
            "what follows from a shape is kept as if it never changed",
            "of_shapes = any(one is not None and one.of_shapes for one in read)",
            "of_shapes = False",
            ONNX_SHAPES,
        ),
    ],
    "onnx/work.py": [
        (
            "each shape builds a kernel with its number",
            "if self.constant and not self.of_shapes else None",
            "if self.constant else None",
            ONNX_SHAPES,
        ),
        (
            "an axis beyond the last one is one of the others",
            "if not -rank <= axis < rank:",
            "if False:",
            ONNX_SHAPES,
        ),
    ],
    "onnx/windows.py": [
        (
            "between two samples the other one counts",
            "first = np.clip(below, 0, length - 1)",
            "first = np.clip(below + 1, 0, length - 1)",
            ONNX_NODES,
        )
    ],
    "templates/elementwise/expression.cl.mako": [
        (
            "the last vector of a row is written behind it",
            "if (some >= LANES) {",
            "if (some >= 1) {",
            ONNX_NODES,
        )
    ],
    "templates/elementwise/normalise.cl.mako": [
        (
            "the variance is about zero",
            "sum_of(from, length, mean, 1)",
            "sum_of(from, length, 0, 1)",
            ONNX_NODES,
        )
    ],
    "templates/elementwise/pool.cl.mako": [
        ("NaN is passed over", "v = (w > v) | (w != w) ? w : v;", "v = w > v ? w : v;", ONNX_NODES)
    ],
    "torch/memory.py": [
        (
            "drivers copy tensors that are read",
            "OVER_MEMORY = cl.mem_flags.READ_WRITE |",
            "OVER_MEMORY = cl.mem_flags.READ_ONLY |",
            "tests/test_torch_memory.py -k where_they_lie",
        ),
        (
            "a change of a weight's values is not seen",
            "return content, outline, weakref",
            "return outline, weakref",
            CONTRACT,
        ),
        (
            "weights that lie otherwise are taken for the same",
            "return content, outline, weakref",
            "return content, weakref",
            CONTRACT,
        ),
        (
            "what is derived is kept while weights train",
            "if self.in_place and not torch.is_grad_enabled():",
            "if self.in_place:",
            CONTRACT,
        ),
        (
            "a recipe for tensors that lie otherwise is followed",
            "*lie.values(), *state",
            "*state",
            "tests/test_torch.py -k test_views",
        ),
        (
            "tensors of a call that overlap get buffers over the same memory",
            "if any(begin < other_end and other < end for other, other_end in self._spans):",
            "if False:",
            TORCH,
        ),
        (
            "tensors that touch are copied",
            "begin < other_end and other < end",
            "begin <= other_end and other <= end",
            TORCH,
        ),
        (
            "memory is given back while kernels use it",
            "            if not waited:\n                self.runtime.finish()\n",
            "",
            TORCH_MEMORY,
        ),
        (
            "memory that is gone is read",
            "if storage.nbytes() - tensor.storage_offset() * tensor.element_size() < needed:",
            "if False:",
            TORCH_MEMORY,
        ),
    ],
    "torch/batching.py": [
        (
            "a batch of weights has its channels in the wrong place",
            "lined = lined.unflatten(at, (groups, size, -1)).movedim(at - 1, 0)",
            "lined = lined.unflatten(at, (groups, -1, size)).movedim(at, 0)",
            TORCH_AUTOGRAD,
        )
    ],
    "torch/operators.py": [
        (
            "a result of a transposed tensor lies in rows",
            "return x.new_empty((*shape[:-2], shape[-1], shape[-2])).transpose(-1, -2)",
            "return x.new_empty(shape)",
            TORCH_LAYOUTS,
        ),
        (
            "the weight's second derivative is of the wrong input",
            "for_weight = BACKWARD(of_x, weight, grad,",
            "for_weight = BACKWARD(x, weight, grad,",
            TORCH,
        ),
        (
            "the bias's part of a second derivative is left out",
            "None if of_bias is None else of_bias[:, None].expand_as(grad),",
            "None,",
            TORCH,
        ),
        (
            "the weight's tangent is left out",
            "None if of_weight is None else CONVOLUTION(x, of_weight, None, *ctx.options),",
            "None,",
            TORCH_AUTOGRAD,
        ),
    ],
    "signal/sums.py": [
        (
            "the imaginary part has the wrong sign",
            "pieces = ((real, negative), (imaginary, real))",
            "pieces = ((real, imaginary), (negative, real))",
            SIGNAL,
        ),
        (
            "taps of a phase come in order",
            "made[phase, stop - own.shape[0] : stop] = own[::-1]",
            "made[phase, stop - own.shape[0] : stop] = own",
            SIGNAL_KERNELS,
        ),
        (
            "one side of complex results is interleaved twice",
            "side * part.strides[1]",
            "0 * part.strides[1]",
            SIGNAL,
        ),
    ],
    "signal/shaped.py": [
        ("no conjugate", "turn_h,\n    )", "False,\n    )", SIGNAL),
        (
            "reversed signals are not",
            "x = sliced(x, i, 0, x.shape[i], -1)",
            "x = sliced(x, i, 0, x.shape[i], 1)",
            SIGNAL,
        ),
    ],
    "signal/numbers.py": [
        ("whole numbers beyond float64", "if bound > EXACT_DOUBLE:", "if False:", SIGNAL),
        ("float32 beyond its whole numbers", "= 2**24, 2**53", "= 2**25, 2**53", SIGNAL),
    ],
    "signal/phases.py": [("taps of a phase come in order", "[::-1].T", ".T", SIGNAL_KERNELS)],
    "signal/long.py": [
        (
            "all turns begin with the first sample",
            "lead=self.pad - first * self.step",
            "lead=self.pad",
            SIGNAL_KERNELS,
        )
    ],
    "templates/resampling/resample.cl.mako": [
        (
            "results are written behind the last one",
            "(int)min((long)min(LANES, last + 1 - j_first), positions - begin)",
            "min(LANES, last + 1 - j_first)",
            SIGNAL_KERNELS,
        )
    ],
    "templates/long/long_products.cl.mako": [
        ("taps are not conjugate", "im${b} - xr * hi", "im${b} + xr * hi", SIGNAL_KERNELS)
    ],
    "calls/host.py": [
        (
            "a call that raises does not wait",
            "if self._borrowed and (kind is not None or not self._waited):",
            "if False:",
            HOST_ARRAYS,
        ),
        (
            "an out with gaps is written as if it had none",
            "if out is not None and out.flags.c_contiguous:",
            "if out is not None:",
            SEQUENCE_OUTS,
        ),
    ],
    "signal/filtering.py": [
        ("the second filter is turned", "sums, reverse=False, out=out)", "sums)", SIGNAL),
        ("no state is added", "add_scaled(door.runtime, place, 1.0, state)", "pass", SIGNAL),
    ],
    "dask.py": [
        (
            "chunks forget what came before",
            "start = max(samples[here] - before, 0)",
            "start = samples[here]",
            "tests/test_dask.py",
        ),
        (
            "all chunks have the first channels' weights",
            "here = slice(firsts[place[axis]], firsts[place[axis] + 1])",
            "here = slice(firsts[0], firsts[1])",
            "tests/test_dask.py",
        ),
    ],
    "torch/layers.py": [
        (
            "a padding mode pads twice",
            "place = (self.stride, 0, self.dilation, self.groups)",
            "place = (self.stride, self.padding, self.dilation, self.groups)",
            TORCH,
        )
    ],
    "torch/reporting.py": [
        (
            "tuning leaves the model in eval mode",
            "module.training = mode",
            "pass",
            "tests/test_tuning.py -k torch",
        )
    ],
}

FAULTS = [Fault(f"clconv/{path}", *row) for path, rows in _ROWS.items() for row in rows]
