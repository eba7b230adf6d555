"""Times what PyTorch offers for the same work on the same GPU:

    python3 rivals.py --out FILE [--seconds N] [--quick]    (--check-only: just the numerics, on the CPU)

First the module's output and gradients are compared in float64 with stored ones, and each SDPA backend with the unfused
computation: what is wrong is not timed. The results are written after every measurement. Exit codes: 0 something was measured (or
the check passed), 1 the numerics are wrong, 2 there is no usable PyTorch.
"""

import argparse
import datetime
import json
import math
import pathlib
import statistics
import sys
import time
import warnings

try:
    import torch
    import torch.nn.functional as F
except ImportError as missing:
    print(f"rivals: PyTorch cannot be imported: {missing}")
    sys.exit(2)

from sas_torch import NaiveMha, SasAttention, attention, sdpa_backend, unfused_attention

HEADS, HEAD_DIM, SIM_HEADS, SIM_HEAD_DIM, KERNEL = 12, 64, 36, 96, 5  # the paper's 125M model
TOKENS = 32768  # a batch: 64 sequences of 512
HERE = pathlib.Path(__file__).resolve().parent
FIXTURES = [HERE.parent / "js" / "fixtures", HERE.joinpath("../../../../test/fixtures")]


# Numerics


def stored(entry):
    values = [float(value) for value in entry["data"]]
    return torch.tensor(values, dtype=torch.float64).reshape(entry["shape"])


def read_safetensors(path):
    """Tensors of a float32 file, in float64."""
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    tensors = {}
    for name, entry in json.loads(content[8:start]).items():
        first, last = entry["data_offsets"]
        values = torch.frombuffer(bytearray(content[start + first : start + last]), dtype=torch.float32)
        tensors[name] = values.reshape(entry["shape"]).double()
    return tensors


def relative_error(actual, reference, scale=None):
    """Absolute where `scale`, by default the reference's norm, is 0. NaN fails every comparison with a limit."""
    scale = (reference.norm() if scale is None else scale).item()
    return (actual - reference).norm().item() / (scale or 1.0)


def check_case(case, parameters=None, limit=1e-12):
    """Output and every gradient of one stored case; its parameters are among its inputs unless given."""
    options, inputs = case["options"], {name: stored(value) for name, value in case["inputs"].items()}
    names = ("heads", "headDim", "simHeads", "simHeadDim", "kernelSize", "causal")
    module = SasAttention(*(options[name] for name in names), scale=options.get("scale")).double()
    activations = {name: inputs.pop(name).requires_grad_() for name in ("q", "k", "v")}
    module.load_state_dict(parameters or inputs)  # also: exactly these names and shapes
    output = module(*activations.values())
    wanted = {**activations, **dict(module.named_parameters())}
    gradients = torch.autograd.grad(output, list(wanted.values()), stored(case["gradOutput"]))
    errors = {"output": relative_error(output.detach(), stored(case["outputs"]["output"]))}
    truth = {name: stored(value) for name, value in case["gradients"].items()}
    for name, gradient in zip(wanted, gradients):
        # Softmax ignores what all keys have in common: this gradient is 0, its size that of the terms that cancel.
        scale = truth["sas_k.2.bias"].norm() if name == "sas_k.3.process.bias" else None
        errors[name] = relative_error(gradient, truth[name], scale)
    wrong = {name: error for name, error in errors.items() if not error <= limit}
    return wrong, max(errors.values())


def check_module():
    folder = next((path for path in FIXTURES if (path / "sas.json").exists()), None)
    if folder is None:
        return f"there are no fixtures in {' or '.join(map(str, FIXTURES))}"
    cases = [(case, None) for case in json.loads((folder / "sas.json").read_text())]
    state = read_safetensors(folder / "sas_torch_state.safetensors")
    cases.append((json.loads((folder / "sas_torch_state.json").read_text()), state))
    worst = 0.0
    for number, (case, parameters) in enumerate(cases):
        wrong, largest = check_case(case, parameters)
        if wrong:
            return f"case {number}: relative errors {wrong}"
        worst = max(worst, largest)
    print(f"numerics: {len(cases)} stored cases in float64, largest relative error {worst:.1e}")
    return None


def check_backend(backend, query_width, value_width):
    """Raises where the backend does not take these widths in bf16, forward and backward, or computes something else."""
    torch.manual_seed(0)
    query, key, value = heads(1, 256, (query_width, query_width, value_width), SIM_HEADS)
    with sdpa_backend(backend), warnings.catch_warnings(record=True) as reasons:
        warnings.simplefilter("always")
        try:
            output = attention(query, key, value)
        except RuntimeError as error:
            # The error says only that there is no kernel; why not is in the warnings.
            texts = [str(reason.message).split(" (Triggered")[0] for reason in reasons]
            raise RuntimeError("; ".join([str(error), *texts])) from error
    exact = unfused_attention(*(x.detach().double() for x in (query, key, value)), True, 1 / math.sqrt(query_width))
    gradient = torch.randn_like(output)
    with sdpa_backend(backend):
        gradients = torch.autograd.grad(output, (query, key, value), gradient)
    error = relative_error(output.detach().double(), exact)
    if not error <= 2e-2 or not all(torch.isfinite(x).all() for x in gradients):
        raise RuntimeError(f"wrong result: relative error {error:.1e}")


# Timing


class Times:
    """Seconds of one run: median, 10th and 90th percentile of samples between CUDA events."""

    def __init__(self, samples, min_seconds):
        self.samples, self.min_seconds = samples, min_seconds

    def sample(self, run, repeats):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(repeats):
            run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1000 / repeats

    def measure(self, run):
        self.sample(run, 2)  # first use: code is loaded, algorithms are chosen
        repeats = min(1000, math.ceil(self.min_seconds / self.sample(run, 1)))
        self.sample(run, repeats)  # clocks rise
        seconds = sorted(self.sample(run, repeats) for _ in range(self.samples))
        # The same interpolation as in the project's own timing.
        deciles = statistics.quantiles(seconds, n=10, method="inclusive")
        return {"median": statistics.median(seconds), "low": deciles[0], "high": deciles[-1]}


def reason_of(error):
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 400 else f"{text[:240]} ... {text[-150:]}"


class Report:
    """What was measured and what could not be, written after every step."""

    def __init__(self, path, seconds, times):
        self.path, self.times = path, times
        self.deadline = time.monotonic() + seconds
        self.content = {
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(),
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "device": torch.cuda.get_device_name(),
            "bounds": {},
            "rows": [],
            "failures": [],
            "notRun": [],
        }

    def write(self):
        part = self.path.with_name(self.path.name + ".part")
        part.write_text(json.dumps(self.content, indent=1) + "\n")
        part.replace(self.path)

    def skipped(self, **what):
        self.content["notRun"].append(what)
        self.write()

    def failed(self, error, **what):
        self.content["failures"].append({**what, "reason": reason_of(error)})
        print(f"not measured: {' '.join(str(value) for value in what.values())}: {reason_of(error)}", flush=True)
        self.write()

    def row(self, case, contestant, length, flops_per_token, prepare, tokens=TOKENS):
        """Times `prepare(batch)`'s function at the largest batch that fits in memory."""
        what = {"case": case, "dtype": "bf16", "length": length, "contestant": contestant}
        if time.monotonic() >= self.deadline:
            return self.skipped(**what)
        batch = max(1, tokens // length)
        while True:
            try:
                seconds = self.times.measure(prepare(batch))
                break
            except torch.cuda.OutOfMemoryError as error:
                if batch == 1:
                    return self.failed(error, **what)
            except Exception as error:  # not supported, not compiled, ...: the reason is the result
                return self.failed(error, **what)
            torch.cuda.empty_cache()
            batch //= 2
        flops = batch * length * flops_per_token
        self.content["rows"].append({**what, "batch": batch, "seconds": seconds, "flops": flops})
        self.write()
        return seconds["median"]


# Work per token, forward; a multiply-add counts as 2


def attention_flops(heads, length, width, value_width):
    return heads * length * (width + value_width)  # causal: half of the full square


HEAD_EXPANSION = 2 * HEAD_DIM * KERNEL * (HEADS * SIM_HEADS + SIM_HEADS**2)
FEATURE_EXPANSION = 2 * SIM_HEADS * (HEAD_DIM * SIM_HEAD_DIM + SIM_HEAD_DIM**2)
OUTPUT_PROJECTION = 2 * (HEADS * HEAD_DIM) ** 2
DENSE = 3 * HEAD_EXPANSION + 2 * FEATURE_EXPANSION + OUTPUT_PROJECTION
CORE = attention_flops(SIM_HEADS, 512, SIM_HEAD_DIM, HEAD_DIM)
SAS_FLOPS = (DENSE + CORE, 3 * DENSE + 3.5 * CORE)  # forward; forward and backward


# What is measured


def normal(*shape):
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)


def heads(batch, length, widths, count):
    """[B, H, T, width] views of [B, T, H, width], for each width."""
    return [normal(batch, length, count, width).transpose(1, 2).detach().requires_grad_() for width in widths]


def measure_bounds(report):
    size = 8192
    a, b = normal(size, size), normal(size, size)
    seconds = report.times.measure(lambda: torch.matmul(a, b))["median"]
    report.content["bounds"]["matmulFlops"] = 2 * size**3 / seconds
    source = torch.empty(2**28, device="cuda", dtype=torch.float32)  # 1 GiB
    target = torch.empty_like(source)
    seconds = report.times.measure(lambda: target.copy_(source))["median"]
    report.content["bounds"]["copyBytesPerSecond"] = 2 * source.numel() * 4 / seconds
    report.write()


def measure_core(report, length, backend, query_width, value_width):
    """Attention over the simulated heads alone."""
    contestant = f"SDPA {backend} {query_width}/{value_width}"
    flops = attention_flops(SIM_HEADS, length, query_width, value_width)

    def forward(batch):
        query, key, value = (x.detach() for x in heads(batch, length, (query_width, query_width, value_width), SIM_HEADS))

        def run():
            with sdpa_backend(backend), torch.no_grad():
                attention(query, key, value)

        return run

    def backward(batch):
        inputs = heads(batch, length, (query_width, query_width, value_width), SIM_HEADS)
        with sdpa_backend(backend):
            output = attention(*inputs)
        gradient = torch.randn_like(output)
        return lambda: torch.autograd.grad(output, inputs, gradient, retain_graph=True)

    report.row("attention forward", contestant, length, flops, forward)
    report.row("attention backward", contestant, length, 2.5 * flops, backward)


def measure_module(report, contestant, module, backend, forward_flops, total_flops, length=512):
    """A module of three inputs [B, T, H, D]; returns the seconds of forward and backward together."""
    parameters = list(module.parameters())

    def forward(batch):
        inputs = [normal(batch, length, HEADS, HEAD_DIM) for _ in range(3)]

        def run():
            with sdpa_backend(backend), torch.no_grad():
                module(*inputs)

        return run

    def both(batch):
        inputs = [normal(batch, length, HEADS, HEAD_DIM).requires_grad_() for _ in range(3)]
        gradient = normal(batch, length, HEADS * HEAD_DIM)

        def run():
            with sdpa_backend(backend):
                torch.autograd.grad(module(*inputs), [*inputs, *parameters], gradient)

        return run

    report.row("SasAttention forward", contestant, length, forward_flops, forward)
    return report.row("SasAttention forward + backward", contestant, length, total_flops, both)


def measure_ops(report):
    """The rest of a training step at 125M parameters, each as PyTorch's own fused op where it has one."""
    width, vocabulary, count = HEADS * HEAD_DIM, 50257, 124_000_000

    def gradient_of(output, inputs):
        gradient = torch.randn_like(output)
        return lambda: torch.autograd.grad(output, inputs, gradient, retain_graph=True)

    def norm(batch):
        return normal(batch, 512, width).requires_grad_(), torch.nn.LayerNorm(width).to("cuda", torch.bfloat16)

    def norm_forward(batch):
        x, layer = norm(batch)
        return lambda: layer(x.detach())

    def norm_backward(batch):
        x, layer = norm(batch)
        return gradient_of(layer(x), (x, *layer.parameters()))

    def gelu_forward(batch):
        x = normal(batch, 512, 4 * width)
        return lambda: F.gelu(x)

    def gelu_backward(batch):
        x = normal(batch, 512, 4 * width).requires_grad_()
        return gradient_of(F.gelu(x), (x,))

    def loss(batch):
        logits = normal(batch * 512, vocabulary).requires_grad_()
        return logits, torch.randint(vocabulary, (logits.shape[0],), device="cuda")

    def loss_forward(batch):
        logits, targets = loss(batch)
        return lambda: F.cross_entropy(logits.detach(), targets)

    def loss_backward(batch):
        logits, targets = loss(batch)
        return gradient_of(F.cross_entropy(logits, targets), (logits,))

    def embedding_backward(batch):
        table = torch.randn(vocabulary, width, device="cuda").requires_grad_()
        tokens = torch.randint(vocabulary, (batch, 512), device="cuda")
        return gradient_of(F.embedding(tokens, table), (table,))

    def adamw(_):
        parameter = torch.randn(count, device="cuda").requires_grad_()
        parameter.grad = torch.randn(count, device="cuda")
        return torch.optim.AdamW([parameter], fused=True).step

    def linear(outputs, backward):
        def prepare(batch):
            x, layer = normal(batch, 512, width).requires_grad_(), torch.nn.Linear(width, outputs).to("cuda", torch.bfloat16)
            return gradient_of(layer(x), (x, *layer.parameters())) if backward else lambda: layer(x.detach())

        return prepare

    for outputs in (width, 4 * width):
        flops = 2 * width * outputs
        report.row(f"linear {width}->{outputs} forward", "PyTorch", 512, flops, linear(outputs, False))
        report.row(f"linear {width}->{outputs} backward", "PyTorch", 512, 2 * flops, linear(outputs, True))
    for case, prepare in {
        "layerNorm forward": norm_forward,
        "layerNorm backward": norm_backward,
        "gelu forward": gelu_forward,
        "gelu backward": gelu_backward,
        "crossEntropy forward": loss_forward,
        "crossEntropy backward": loss_backward,
        "embedding backward": embedding_backward,
    }.items():
        report.row(case, "PyTorch", 512, 0, prepare)
    report.row("adamW 124M", "PyTorch, fused", 512, 0, adamw, tokens=512)


def measure_eager(report, module, supported):
    """Returns the backends that the module works with, fastest first."""
    taken = {}
    for backend in supported:
        seconds = measure_module(report, f"PyTorch eager, {backend}", module, backend, *SAS_FLOPS)
        if seconds is not None:
            taken[backend] = seconds
    core = attention_flops(HEADS, 512, HEAD_DIM, HEAD_DIM)
    flops = (OUTPUT_PROJECTION + core, 3 * OUTPUT_PROJECTION + 3.5 * core)
    mha = NaiveMha(HEADS, HEAD_DIM).to("cuda", torch.bfloat16)
    measure_module(report, f"PyTorch naive MHA ({HEADS} heads)", mha, None, *flops)
    return sorted(taken, key=taken.get)


def measure_compiled(report, module, backends, quick):
    """Compiling takes most of the time there is."""
    for backend in backends:
        contestant = f"PyTorch compiled, {backend}"
        if quick:
            report.skipped(case="SasAttention", dtype="bf16", length=512, contestant=contestant)
        elif hasattr(torch, "compile"):
            torch.compiler.reset()
            measure_module(report, contestant, torch.compile(module), backend, *SAS_FLOPS)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("rivals.json"))
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--check-only", action="store_true")
    arguments = parser.parse_args()

    fault = check_module()
    if fault:
        print(f"rivals: the PyTorch module is wrong, nothing is timed: {fault}")
        return 1
    if arguments.check_only:
        return 0
    if not torch.cuda.is_available():
        print(f"rivals: PyTorch {torch.__version__} finds no CUDA device, nothing is timed")
        return 2
    if not hasattr(torch.nn.functional, "scaled_dot_product_attention"):
        print(f"rivals: PyTorch {torch.__version__} has no scaled_dot_product_attention, nothing is timed (2.3 has it)")
        return 2

    times = Times(samples=5, min_seconds=0.02) if arguments.quick else Times(samples=9, min_seconds=0.03)
    report = Report(arguments.out, arguments.seconds, times)
    report.write()
    torch.backends.cudnn.benchmark = True  # the fastest convolution for these shapes
    try:
        measure_bounds(report)
    except Exception as error:
        report.failed(error, case="bounds")

    def accepts(backend, query_width, value_width):
        try:
            check_backend(backend, query_width, value_width)
            return True
        except Exception as error:
            report.failed(error, case="attention", contestant=f"SDPA {backend} {query_width}/{value_width}")
            return False

    supported = [backend for backend in ("cuDNN", "efficient", "flash", "math") if accepts(backend, SIM_HEAD_DIM, HEAD_DIM)]
    # FlashAttention wants equal widths: wider values, or narrower queries and keys, than SAS has.
    equal = [width for width in (SIM_HEAD_DIM, HEAD_DIM) if accepts("flash", width, width)]
    module = SasAttention(HEADS, HEAD_DIM, SIM_HEADS, SIM_HEAD_DIM, KERNEL).to("cuda", torch.bfloat16)
    backends = measure_eager(report, module, supported)

    def measure_cores(*lengths):
        for length in lengths:
            for backend in supported:
                if backend != "math":
                    measure_core(report, length, backend, SIM_HEAD_DIM, HEAD_DIM)
            for width in equal:
                measure_core(report, length, "flash", width, width)

    measure_cores(512, 1024, 2048)
    measure_ops(report)
    measure_compiled(report, module, backends[:1], arguments.quick)  # each takes half a minute to compile
    measure_cores(4096, 8192)

    content = report.content
    counts = f"{len(content['rows'])} measured, {len(content['failures'])} not supported or failed, {len(content['notRun'])} not run"
    print(f"rivals: {counts}")
    return 0 if content["rows"] else 1


if __name__ == "__main__":
    sys.exit(main())
