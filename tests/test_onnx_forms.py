"""Which forms models and inputs may have, what comes back, and what reports and errors say."""

from __future__ import annotations

import numpy as np
import onnx
import pyopencl as cl
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from test_onnx_models import (
    FLOAT,
    OPSET,
    chain,
    integers,
    mixed,
    model_of,
    node,
    prepared_of,
    reference,
    runs,
)

from clconv import DeviceError, ProblemError
from clconv.onnx import Backend, report


def test_forms_of_models_and_inputs(first_runtime, rng, tmp_path):
    """A ModelProto, bytes, a path with external data; arrays, lists and PyTorch's tensors."""
    model, x = chain(rng, 2), integers(rng, 1, 4, 9)
    expected = Backend.run_model(model, [x], first_runtime)[0]
    path = tmp_path / "model.onnx"
    copied = onnx.load_from_string(model.SerializeToString())
    onnx.save(copied, path, save_as_external_data=True, location="weights", size_threshold=0)
    for form in (model.SerializeToString(), path, str(path)):
        np.testing.assert_array_equal(Backend.run_model(form, [x], first_runtime)[0], expected)
    prepared = prepared_of(first_runtime, model)
    for given in ([x.tolist()], {"x": torch.from_numpy(x)}, torch.from_numpy(x).requires_grad_()):
        np.testing.assert_array_equal(prepared.run(given)[0], expected)
    with pytest.raises(ProblemError, match=r"model is '.*none.onnx', expected a file that exists"):
        Backend.prepare(tmp_path / "none.onnx", first_runtime)
    (tmp_path / "weights").unlink()
    with pytest.raises((ProblemError, onnx.checker.ValidationError)):
        Backend.prepare(path, first_runtime)


def test_outputs_without_types(first_runtime, rng):
    w, x = integers(rng, 4, 4, 3), integers(rng, 1, 4, 9)
    nodes = [node("Conv", ["x", "w"], ["c"]), node("Relu", ["c"], ["y"])]
    model = model_of(nodes, constants={"w": w}, outputs=())
    model.graph.output.extend([onnx.ValueInfoProto(name="y"), onnx.ValueInfoProto(name="c")])
    y, c = Backend.run_model(model, [x], first_runtime)
    np.testing.assert_array_equal(y, np.maximum(c, 0))


def test_replaced_initializers(first_runtime, rng):
    """What follows from an initializer that is replaced follows from the new one."""
    w = integers(rng, 4, 4, 3)
    nodes = [node("Neg", ["w"], ["v"]), node("Conv", ["x", "v"], ["y"])]
    given = helper.make_tensor_value_info("w", FLOAT, w.shape)
    model = model_of(nodes, (1, 4, "L"), {"w": w}, inputs=(given,))
    prepared, x = prepared_of(first_runtime, model), integers(rng, 1, 4, 9)
    for other in (w, w + 1, w):
        y = prepared.run({"x": x, "w": other})[0]
        np.testing.assert_array_equal(y, reference(model, x=x, w=other)[0])
        np.testing.assert_array_equal(prepared.run([x])[0], reference(model, x=x)[0])


def test_nodes_in_any_order(first_runtime, rng, tmp_path):
    """As converters leave them; a circle is what the check finds."""
    model, x = mixed(rng), integers(rng, 1, 4, 21)
    expected = reference(model, x=x)[0]
    nodes = list(model.graph.node)
    for order in ((4, 3, 2, 1, 0), (1, 0, 2, 4, 3)):
        del model.graph.node[:]
        model.graph.node.extend(nodes[i] for i in order)
        onnx.save(model, tmp_path / "model.onnx")
        for one in (model, tmp_path / "model.onnx"):
            np.testing.assert_array_equal(Backend.run_model(one, [x], first_runtime)[0], expected)
        assert [one.op_type for one in model.graph.node] == [nodes[i].op_type for i in order]
    model.graph.node[0].input[0] = "d"
    nodes[3].input[0] = "y"
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    with pytest.raises(onnx.checker.ValidationError, match="topologically sorted"):
        Backend.prepare(model, first_runtime)


@pytest.mark.parametrize("flat", [True, False])
def test_sparse_constants(first_runtime, rng, flat):
    """An initializer and a Constant, by places of each axis or of the flattened tensor."""
    dense = integers(rng, 2, 4, 3) * (rng.random((2, 4, 3)) < 0.3)
    dense[1, 2, 0] = 5
    places = np.stack(np.nonzero(dense), axis=1)
    if flat:
        places = np.ravel_multi_index(tuple(places.T), dense.shape)

    def sparse(name):
        values = numpy_helper.from_array(dense[np.nonzero(dense)].astype(np.float32), name)
        where = numpy_helper.from_array(places.astype(np.int64), f"{name} places")
        return helper.make_sparse_tensor(values, where, dense.shape)

    model = model_of([
        node("Constant", [], ["v"], sparse_value=sparse("v")), node("Add", ["w", "v"], ["k"]),
        node("Conv", ["x", "k"], ["y"]),
    ])  # fmt: skip
    model.graph.sparse_initializer.append(sparse("w"))
    x = integers(rng, 1, 4, 9)
    y = runs(first_runtime, model, 1, x=x)
    plain = model_of([node("Conv", ["x", "k"], ["y"])], constants={"k": dense * np.float32(2)})
    np.testing.assert_array_equal(y, reference(plain, x=x)[0])


def test_outputs_of_all_kinds(first_runtime, rng):
    """An input, a constant, a value that others read, one that nothing reads."""
    nodes = [
        node("Relu", ["x"], ["r"]), node("Identity", ["x"], ["same"]), node("Neg", ["r"], ["y"]),
        node("Exp", ["r"], ["unused"]), node("Neg", ["k"], ["n"]),
    ]  # fmt: skip
    model = model_of(nodes, constants={"k": np.float32([1, 2])}, outputs=("y", "r", "same", "n"))
    x = integers(rng, 1, 4, 5)
    prepared = prepared_of(first_runtime, model)
    for _ in range(2):
        for ours, theirs in zip(prepared.run([x]), reference(model, x=x), strict=True):
            np.testing.assert_array_equal(ours, theirs)
            ours[...] = 7  # belongs to the caller


@pytest.mark.parametrize("shares", [True, False])
def test_inputs_lie_anywhere(runtime, rng, monkeypatch, shares):
    """Recorded runs read arrays where they are, or copies of those that cannot be lent; or all are
    copied to a device with memory of its own."""
    if not shares:
        monkeypatch.setattr(runtime.memory, "shares_host", False)
    w, other = integers(rng, 4, 4, 3), helper.make_tensor_value_info("z", FLOAT, (1, 4, "L"))
    nodes = [
        node("Conv", ["x", "w"], ["c"], pads=[1, 1]), node("CumSum", ["c", "axis"], ["s"]),
        node("Conv", ["s", "w"], ["d"], pads=[1, 1]), node("Add", ["d", "z"], ["y"]),
        # Nothing reads this, so that nothing waits for it.
        node("MaxPool", ["z"], ["unused"], kernel_shape=[2]), node("Sign", ["z"], ["t"]),
    ]  # fmt: skip
    constants = {"w": w, "axis": np.array(2)}
    model = model_of(nodes, constants=constants, inputs=(other,), outputs=("y", "t"))
    prepared, x, z = prepared_of(runtime, model), integers(rng, 1, 4, 9), integers(rng, 1, 4, 9)
    prepared.run([x, z])
    ((program, _),) = prepared._known.get(frozenset()).programs._entries.values()
    wide, fixed = integers(rng, 1, 5, 11), integers(rng, 1, 4, 9)
    fixed.flags.writeable = False
    for a, b in (
        (z, x), (x, x), (wide[:, 1:, 2:], x), (x, wide[:, 3::-1, :9]), (fixed, fixed),
        (wide[:, :4].reshape(-1)[1:37].reshape(1, 4, 9), z), (x[..., ::-1], np.asfortranarray(z)),
    ):  # fmt: skip
        before = a.copy(), b.copy()
        y, t = prepared.run([a, b])
        np.testing.assert_array_equal(y, reference(model, x=a, z=b)[0])
        np.testing.assert_array_equal(t, np.sign(b))
        np.testing.assert_array_equal(a, before[0])
        np.testing.assert_array_equal(b, before[1])
    # What is given is not kept, and takes no memory of the device where that reads the host's.
    assert program._borrowed == []
    assert bool(program._lent) == runtime.memory.shares_host
    assert not program._lent.intersection(program._at)


def test_after_a_failure(first_runtime, rng):
    """A run that a driver refuses is an error of ours, keeps no arrays, and may go again."""
    prepared, x = prepared_of(first_runtime, chain(rng, 2)), integers(rng, 1, 4, 9)
    expected = prepared.run([x])[0]
    prepared.run([x])
    ((program, _),) = prepared._known.get(frozenset()).programs._entries.values()
    steps, far = program._steps, np.empty(10**6, np.float32)

    def refused(host):
        buffer = program._scratch.pages[0]
        cl.enqueue_copy(first_runtime.queue, far, buffer, src_offset=buffer.size)

    program._steps = [*steps[:-1], refused]
    with pytest.raises(DeviceError, match="cannot run a model"):
        prepared.run([x])
    assert program._borrowed == []
    program._steps = steps
    np.testing.assert_array_equal(prepared.run([x])[0], expected)


def test_report(first_runtime, rng):
    model = mixed(rng)
    entries = report(model, device=first_runtime)
    assert [one.op for one in entries] == ["Conv", "CumSum", "Sign", "Conv", "Add"]
    assert [one.where for one in entries] == [
        "device", "onnx.reference", "onnx.reference", "device", "device",
    ]  # fmt: skip
    assert entries[1].why == "no kernel for this operator"
    assert entries[3].why == "in the kernel of a node after it"
    assert entries[4].why.startswith("convolution_")
    assert repr(entries).splitlines()[1] == (
        "s  CumSum  onnx.reference: no kernel for this operator"
    )
    assert report(Backend.prepare(model, first_runtime)) == entries
    series = helper.make_tensor_sequence_value_info("s", FLOAT, None)
    length = helper.make_tensor_value_info("y", TensorProto.INT64, [])
    graph = helper.make_graph([node("SequenceLength", ["s"], ["y"])], "g", [series], [length])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    with pytest.raises(ProblemError, match="the model says no shape of input s"):
        report(model, device=first_runtime)
    assert Backend.run_model(model, [[np.ones(2, np.float32)] * 3], first_runtime)[0] == 3


def test_errors_name_the_node(first_runtime, rng):
    x = integers(rng, 1, 4, 9)
    for made, constants, message in (
        (node("Conv", ["x", "w"], ["y"], name="first"), {"w": integers(rng, 2, 3, 3)},
         r"^node first \(Conv\): weight has shape"),
        (node("Reshape", ["x", "s"], ["y"]), {"s": np.array([5, -1])},
         r"^node of y \(Reshape\): x has"),
        (node("CumSum", ["x", "a"], ["y"], name="sum"), {"a": np.array(7)},
         r"^node sum \(CumSum\)"),
    ):  # fmt: skip
        graph = helper.make_graph(
            [made], "g", [helper.make_tensor_value_info("x", FLOAT, [1, 4, 9])],
            [helper.make_tensor_value_info("y", FLOAT, [None] * 3)],
            [numpy_helper.from_array(one, name) for name, one in constants.items()],
        )  # fmt: skip
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)],
                                  ir_version=10)  # fmt: skip
        with pytest.raises(ProblemError, match=message):
            Backend.run_model(model, [x], first_runtime)
