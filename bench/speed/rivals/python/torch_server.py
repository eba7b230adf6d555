"""Computes and times a module of sas_torch.py on the CPU for another process, one JSON object per line:

    (start)                                                             -> {"version", "threads", "blas": files}
    {"do": "load", "module": "sas" or "mha", "config", "parameters",
     "inputs": {"q", "k", "v"}, "gradOutput", "backward"}               -> {}
    {"do": "results"}                                                   -> {"results": {name: data}}
    {"do": "time", "repeats"}                                           -> {"seconds"} per run

A tensor is {"shape", "data"} with data as base64 of little-endian f32. A failure is {"error"}.
"""

import base64
import json
import pathlib
import sys
import time


def answer(**content):
    print(json.dumps(content), flush=True)


try:
    import torch

    from sas_torch import NaiveMha, SasAttention
except ImportError as missing:
    answer(error=f"PyTorch cannot be imported ({missing})")
    sys.exit()


def blas_files():
    """The BLAS libraries in this process; none where PyTorch has its own built in, or where there is no /proc."""
    maps = pathlib.Path("/proc/self/maps")
    lines = maps.read_text().splitlines() if maps.exists() else []
    files = {line.split()[-1] for line in lines if "/" in line}
    return sorted(file for file in files if any(name in pathlib.Path(file).name for name in ("blas", "blis", "mkl_rt")))


def decoded(tensor):
    data = bytearray(base64.b64decode(tensor["data"]))
    return torch.frombuffer(data, dtype=torch.float32).reshape(tensor["shape"])


def encoded(tensor):
    return base64.b64encode(tensor.detach().contiguous().numpy().tobytes()).decode()


class Work:
    def __init__(self, module, config, parameters, inputs, gradOutput, backward):
        if module == "sas":
            names = ("heads", "headDim", "simHeads", "simHeadDim", "kernelSize", "causal")
            self.module = SasAttention(*(config[name] for name in names))
        else:
            self.module = NaiveMha(config["heads"], config["headDim"])
        self.module.load_state_dict({name: decoded(value) for name, value in parameters.items()})
        self.inputs = {name: decoded(inputs[name]).requires_grad_(backward) for name in ("q", "k", "v")}
        self.grad_output = decoded(gradOutput)
        self.wanted = {**self.inputs, **dict(self.module.named_parameters())} if backward else {}

    def run(self):
        """The output, then the gradients of everything in `wanted`."""
        if not self.wanted:
            with torch.inference_mode():
                return [self.module(*self.inputs.values())]
        output = self.module(*self.inputs.values())
        return [output, *torch.autograd.grad(output, list(self.wanted.values()), self.grad_output)]

    def results(self):
        return {name: encoded(value) for name, value in zip(["output", *self.wanted], self.run())}

    def seconds(self, repeats):
        start = time.perf_counter()
        for _ in range(repeats):
            self.run()
        return (time.perf_counter() - start) / repeats


def main():
    torch.set_num_threads(int(sys.argv[1]))
    answer(version=torch.__version__, threads=torch.get_num_threads(), blas=blas_files())
    work = None
    for line in sys.stdin:
        request = json.loads(line)
        what = request.pop("do")
        try:
            if what == "load":
                work = Work(**request)
                answer()
            elif what == "results":
                answer(results=work.results())
            else:
                answer(seconds=work.seconds(request["repeats"]))
        except Exception as error:  # the other process reports it and goes on
            answer(error=" ".join(str(error).split()) or type(error).__name__)


main()
