"""One step of a compilation, inside the interpreter that has Hailo's Dataflow Compiler.

    python dfc_worker.py JOB.json

Each step has a process of its own, so that each starts with fresh memory. The job names the step ("action") and its
files; results go to the paths it names, and are renamed by the driver. What is done is told in JSON lines on the file
descriptor `messages`, because standard output and standard error belong to the vendor. The last line is one of

    {"event": "done", "result": {...}, "peak_memory_bytes": N}
    {"event": "failure", "kind": "BackendAllocatorException", "text": "..."}

This file is run by the vendor's Python, whose packages are pinned by the vendor: it imports nothing but the standard
library, numpy and hailo_sdk_client.
"""

import json
import math
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any

Job = dict[str, Any]
Say = Callable[[str], None]

ROWS_AT_A_TIME = 4  # of a network with an output for every layer, which for base's encoder are 100 MB a row


def translate(job: Job, say: Say) -> dict[str, Any]:
    """Parse the ONNX graph `graph` for `arch` and save it as `har`; return the parsed network's layers."""
    from hailo_sdk_client import ClientRunner

    runner = ClientRunner(hw_arch=job["arch"])
    runner.translate_onnx_model(
        job["graph"],
        job["net_name"],
        start_node_names=job["start_nodes"],
        end_node_names=job["end_nodes"],
        net_input_shapes=job["input_shapes"],
    )
    runner.save_har(job["har"])
    return {"layers": describe_layers(runner)}


def optimise(job: Job, say: Say) -> dict[str, Any]:
    """Quantise the network `translated` on calibration arrays by `script`, a model script's text; save it as `har`."""
    from hailo_sdk_client import ClientRunner

    runner = ClientRunner(har=job["translated"])
    runner.load_model_script(job["script"])
    data = match_arrays(runner, job["arrays"], job["rows"])
    say(f"{job['rows']} windows of calibration")
    runner.optimize(data, work_dir=job["work_dir"])
    runner.save_har(job["har"])
    return {}


def measure(job: Job, say: Say) -> dict[str, Any]:
    """Compare the quantised network `optimised` with the float one on held-out arrays.

    Where the job names `lengths`, only so many of a row's positions count. Returns `snr_db`.
    """
    import numpy as np
    from hailo_sdk_client import ClientRunner, InferenceContext

    runner = ClientRunner(har=job["optimised"])
    data = match_arrays(runner, job["arrays"], None)
    rows = len(next(iter(data.values())))
    lengths = None if job["lengths"] is None else [int(n) for n in np.load(job["lengths"], allow_pickle=False)]
    say(f"{rows} held-out windows, in float and quantised")
    outputs = []
    for context in (InferenceContext.SDK_NATIVE, InferenceContext.SDK_QUANTIZED):
        with runner.infer_context(context) as opened:
            outputs.append(as_list(runner.infer(opened, data)))
    native, quantised = outputs
    return {"snr_db": signal_to_noise(native, quantised, rows, lengths)}


def look(job: Job, say: Say) -> dict[str, Any]:
    """Run the network `translated` in float on the first row of the arrays; save its outputs, as they come.

    They go to `native`, an .npz of float32 arrays (1, ..., channels), named arr_0, arr_1, ...
    """
    import numpy as np
    from hailo_sdk_client import ClientRunner, InferenceContext

    runner = ClientRunner(har=job["translated"])
    data = match_arrays(runner, job["arrays"], 1)
    with runner.infer_context(InferenceContext.SDK_NATIVE) as opened:
        outputs = as_list(runner.infer(opened, data))
    say(f"{len(outputs)} outputs on one held-out window")
    np.savez(job["native"], *(np.asarray(output, np.float32) for output in outputs))
    return {}


def measure_layers(job: Job, say: Say) -> dict[str, Any]:
    """Compare outputs of the quantised network `optimised` with the float one's on the first `rows` held-out rows.

    A few rows are run at a time, and the float outputs wait for the quantised ones in files below `work_dir`, so that
    memory does not grow with the rows.

    Each entry of `wanted` is {"output": number, "slots": [before, slots, after] or null}. With `slots`, a row of the
    output is cut into these three axes, and only so many slots count as `lengths` says for the row.

    Returns `sums`, for each of `wanted`: sum of squares of the float values, sum of squares of the differences.
    """
    import numpy as np
    from hailo_sdk_client import ClientRunner, InferenceContext

    runner = ClientRunner(har=job["optimised"])
    data = match_arrays(runner, job["arrays"], job["rows"])
    rows = len(next(iter(data.values())))
    lengths = None if job["lengths"] is None else [int(n) for n in np.load(job["lengths"], allow_pickle=False)]
    say(f"{len(job['wanted'])} layers on {rows} held-out windows, in float and quantised")
    sums = [[0.0, 0.0] for _ in job["wanted"]]
    for context in (InferenceContext.SDK_NATIVE, InferenceContext.SDK_QUANTIZED):
        with runner.infer_context(context) as opened:
            for start in range(0, rows, ROWS_AT_A_TIME):
                some = {name: array[start : start + ROWS_AT_A_TIME] for name, array in data.items()}
                outputs = as_list(runner.infer(opened, some))
                for index, wanted in enumerate(job["wanted"]):
                    path = os.path.join(job["work_dir"], f"{start}.{index}.npy")  # noqa: PTH118 - plain names
                    if context == InferenceContext.SDK_NATIVE:
                        np.save(path, np.asarray(outputs[wanted["output"]], np.float32), allow_pickle=False)
                        continue
                    native = np.load(path, mmap_mode="r", allow_pickle=False)
                    some_lengths = None if lengths is None else lengths[start : start + ROWS_AT_A_TIME]
                    found = squares(native, outputs[wanted["output"]], wanted["slots"], some_lengths)
                    sums[index] = [total + more for total, more in zip(sums[index], found, strict=True)]
    return {"sums": sums}


def compile_hef(job: Job, say: Say) -> dict[str, Any]:
    """Compile the network `optimised` to `hef` and save what the compiler found out as `har`."""
    from hailo_sdk_client import ClientRunner

    runner = ClientRunner(har=job["optimised"])
    hef = runner.compile()
    with open(job["hef"], "wb") as file:  # noqa: PTH123 - the job has plain names
        file.write(hef)
    runner.save_har(job["har"])
    return {}


def serve(job: Job, say: Say) -> dict[str, Any]:
    """Run the network `har` on what is asked for, in the inference context that `context` names, until nobody asks.

    A question is a JSON line on the descriptor `requests`: {"inputs": [.npy files, (rows, ...)], "output": "name"}. The
    answer is one on the descriptor `answers`: {"outputs": [.npy files]}, named after `output`, in the vendor's order.
    """
    import numpy as np
    from hailo_sdk_client import ClientRunner, InferenceContext

    runner = ClientRunner(har=job["har"])
    with (
        open(job["requests"], encoding="utf-8") as requests,  # noqa: PTH123 - a descriptor, as the next one
        open(job["answers"], "w", encoding="ascii") as answers,  # noqa: PTH123
        runner.infer_context(InferenceContext[job["context"]]) as opened,
    ):
        say("ready")
        for line in requests:
            request = json.loads(line)
            paths = []
            for number, array in enumerate(
                as_list(runner.infer(opened, match_arrays(runner, request["inputs"], None)))
            ):
                paths.append(f"{request['output']}.{number}.npy")
                np.save(paths[-1], np.asarray(array, np.float32), allow_pickle=False)
            answers.write(json.dumps({"outputs": paths}) + "\n")
            answers.flush()
    return {}


ACTIONS = {
    "translate": translate,
    "optimise": optimise,
    "measure": measure,
    "look": look,
    "measure_layers": measure_layers,
    "compile": compile_hef,
    "serve": serve,
}


def describe_layers(runner: Any) -> list[dict[str, Any]]:
    """Name, type, ONNX names and shapes of every layer of the parsed network, in its order."""
    return [
        {
            "name": name,
            "type": layer["type"],
            "original_names": list(layer.get("original_names") or []),
            "input_shapes": [plain_shape(shape) for shape in layer.get("input_shapes") or []],
            "output_shapes": [plain_shape(shape) for shape in layer.get("output_shapes") or []],
        }
        for name, layer in runner.get_hn()["layers"].items()
    ]


def plain_shape(shape: Any) -> list[int]:
    """A shape as JSON has it; -1 for an open batch."""
    return [-1 if size is None else int(size) for size in shape]


def match_arrays(runner: Any, paths: list[str], rows: int | None) -> dict[str, Any]:
    """Give each input layer the array of its shape (batch aside), mapped from disk and cut to `rows`.

    Layers are told by shape and not by name: the vendor makes the names.

    Raises:
        ValueError: a layer has no array of its shape or several, or an array is left over.
    """
    import numpy as np

    arrays = {path: np.load(path, mmap_mode="r", allow_pickle=False) for path in paths}
    data = {}
    for layer in describe_layers(runner):
        if layer["type"] != "input_layer":
            continue
        shape = tuple(layer["input_shapes"][0][1:])
        fitting = [path for path, array in arrays.items() if array.shape[1:] == shape]
        if len(fitting) != 1:
            known = {os.path.basename(path): array.shape[1:] for path, array in arrays.items()}  # noqa: PTH119
            raise ValueError(f"input {layer['name']} of shape {shape} fits {len(fitting)} of the arrays {known}")
        data[layer["name"]] = arrays.pop(fitting[0])[:rows]
    if arrays:
        raise ValueError(f"the parsed network has no input for {', '.join(sorted(arrays))}")
    return data


def signal_to_noise(native: list[Any], quantised: list[Any], rows: int, lengths: list[int] | None) -> float:
    """10 * log10(sum of squares of the native values / sum of squares of the differences), over all outputs, in dB.

    Args:
        native, quantised: arrays (rows, ..., channels), one for each output.
        rows: how many rows each has.
        lengths: how many positions of each row count; None for all.

    Raises:
        ValueError: the two lists do not have the same shapes.
    """
    import numpy as np

    shapes = [[np.shape(array) for array in arrays] for arrays in (native, quantised)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"the quantised network's outputs have the shapes {shapes[1]}, the float one's {shapes[0]}")
    signal = noise = 0.0
    for reference, other in zip(native, quantised, strict=True):
        channels = np.shape(reference)[-1]
        one, two = (np.reshape(array, (rows, -1, channels)) for array in (reference, other))
        more = squares(one, two, [1, -1, channels], lengths)
        signal, noise = signal + more[0], noise + more[1]
    if signal == 0.0:
        return math.nan
    return math.inf if noise == 0.0 else 10.0 * math.log10(signal / noise)


def as_list(outputs: Any) -> list[Any]:
    """What `infer` returned, as a list: of one output it returns the array alone."""
    return list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]


def squares(native: Any, quantised: Any, slots: list[int] | None, lengths: list[int] | None) -> list[float]:
    """Sums of squares of the float values of some rows of one output, and of their differences to the quantised ones.

    Args:
        native, quantised: arrays (rows, ...).
        slots: how a row is cut into (before, slots, after); None if all of it counts.
        lengths: how many slots of each row count; needed with `slots`.

    Raises:
        ValueError: the two do not have the same shape.
    """
    import numpy as np

    if np.shape(native) != np.shape(quantised):
        raise ValueError(f"a quantised output has the shape {np.shape(quantised)}, the float one {np.shape(native)}")
    signal = noise = 0.0
    for row, (reference, other) in enumerate(zip(native, quantised, strict=True)):
        one, two = np.asarray(reference, np.float64), np.asarray(other, np.float64)
        if slots is not None and lengths is not None:
            one, two = (array.reshape(slots)[:, : lengths[row]] for array in (one, two))
        signal += float(np.square(one).sum())
        noise += float(np.square(one - two).sum())
    return [signal, noise]


def peak_memory() -> int:
    """Peak memory of the largest process so far, this one or a child, in bytes.

    `ru_maxrss` of this process would count the driver that started it; the kernel's own mark does not.
    """
    own = 0
    with open("/proc/self/status") as status:  # noqa: PTH123
        for line in status:
            if line.startswith("VmHWM:"):
                own = int(line.split()[1])
    return max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) * 1024


def die_with_driver(descriptors: list[int]) -> None:
    """Start a process that kills this one's group, which the driver made, when the driver's end of stdin closes.

    So no orphan computes for hours. It is a process and not a thread, because native code of the vendor may hold
    Python's lock for long. Afterwards nothing here reads from the driver's end: standard input is empty. The other
    process lets go of `descriptors`, so that those who listen there see when this one ends.
    """
    if os.fork() == 0:
        try:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)
            for descriptor in (1, 2, *descriptors):
                os.close(descriptor)
            os.read(0, 1)
        finally:
            os.killpg(0, signal.SIGKILL)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)


def run(job: Job, tell: Callable[[Job], None]) -> int:
    """Do one job and tell how it ended; return the exit status."""
    try:
        result = ACTIONS[job["action"]](job, lambda text: tell({"event": "step", "text": text}))
    except Exception as error:  # the vendor's exceptions are many and undocumented
        traceback.print_exc()
        tell({"event": "failure", "kind": type(error).__name__, "text": str(error)})
        return 1
    tell({"event": "done", "result": result, "peak_memory_bytes": peak_memory()})
    return 0


def main(arguments: list[str]) -> int:
    """Read the job file and run it."""
    with open(arguments[0], encoding="utf-8") as file:  # noqa: PTH123
        job = json.load(file)
    descriptor = job["messages"]
    descriptors = [job[name] for name in ("messages", "requests", "answers") if name in job]
    for each in descriptors:
        os.set_inheritable(each, False)
    die_with_driver(descriptors)

    with open(descriptor, "w", encoding="ascii") as pipe:  # noqa: PTH123 - a descriptor

        def tell(message: Job) -> None:
            pipe.write(json.dumps(message) + "\n")
            pipe.flush()

        return run(job, tell)


if __name__ == "__main__":
    sys.path.pop(0)  # this file's folder: its modules are not for the vendor to find
    sys.exit(main(sys.argv[1:]))
