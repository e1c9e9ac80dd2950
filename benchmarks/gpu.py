"""All that a GPU has to show, in ten minutes and one command: JSON, a table for the docs, rates for `plan`.

    python benchmarks/gpu.py                                   # every part, on the first GPU
    python benchmarks/gpu.py --parts learning memory           # some of them
    python benchmarks/gpu.py --timm CLONE/benchmark.py         # timm's own script beside ours
    python benchmarks/gpu.py --device cpu --quick   # on a processor: is the script whole?

Without a GPU that torch can use it ends at once and says so. Each part runs for itself: one that fails or is
out of time is a line with the reason, and the others go on. Parts: `features` and `learning` (photos a second
in fp32, bf16 and fp16, by batch, and memory), `timm` (its benchmark.py from a clone of
huggingface/pytorch-image-models, same network, size, batch and precision), `ddp` (the speed of all GPUs over
n times the speed of one), `photos` and `cifar` (seconds of `train` and accuracy: the head and fine-tuning),
`resume` (`train` is killed after its first saved step and started again), `rates` (a file for
`catflap plan --machine`).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from machine import header

from catflap.errors import CatflapError, first_line
from catflap.image import Frame
from catflap.machine import describe_machine
from catflap.pipeline.machine_rates import measure_rates, write_rates
from catflap.training.backbones import PACKAGED
from catflap.training.distributed import Precision
from catflap.training.throughput import measure_features, measure_learning

CATFLAP = [sys.executable, "-c", "from catflap.cli.main import run; run()"]
PRECISIONS: tuple[Precision, ...] = ("32-true", "bf16-mixed", "16-mixed")
SHARES = ("--train", "0.6", "--validation", "0.36", "--calibration", "0.02", "--test", "0.02")
Rows = list[dict[str, Any]]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--minutes", type=float, default=10.0, help="for all parts together")
    parser.add_argument("--backbone", default=PACKAGED)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--timm", type=Path, metavar="FILE", help="benchmark.py of a clone of timm")
    parser.add_argument("--photos", type=Path, default=Path("../shared/data/photos"))
    parser.add_argument("--cifar", type=Path, default=Path("../shared/data/cifar10.zip"))
    parser.add_argument("-o", "--out", type=Path, default=Path("gpu"), metavar="FOLDER")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that the script is whole")
    parser.add_argument("--ddp-worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        print(json.dumps({"skipped": "torch sees no GPU here. Run it where `nvidia-smi` lists one."}))
        return
    if args.ddp_worker:
        ddp_worker(args)
        return
    if args.quick:
        args.size = min(args.size, 64)
    args.end = time.monotonic() + 60 * args.minutes
    args.out.mkdir(parents=True, exist_ok=True)
    header(device=device_name(args.device), gpus=torch.cuda.device_count(), torch=torch.__version__)
    found: dict[str, Rows] = {}
    for name in args.parts:
        start = time.monotonic()
        if start > args.end:
            rows: Rows = [{"failed": f"the {args.minutes:g} minutes were over"}]
        else:
            try:
                rows = PARTS[name](args)
            except (CatflapError, RuntimeError, OSError, ValueError, subprocess.SubprocessError) as error:
                rows = [{"failed": f"{type(error).__name__}: {first_line(error)}"}]
        found[name] = rows
        seconds = round(time.monotonic() - start, 1)
        print(json.dumps({"part": name, "seconds": seconds, "rows": rows}), flush=True)
        whole = {"device": device_name(args.device), "machine": describe_machine().to_json(), "parts": found}
        (args.out / "gpu.json").write_text(json.dumps(whole, indent=1) + "\n", "utf-8")
        (args.out / "gpu.md").write_text(table(device_name(args.device), found), "utf-8")


def device_name(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else describe_machine().processor


def left(args: argparse.Namespace) -> float:
    """Seconds until the end, at least one."""
    return max(1.0, float(args.end) - time.monotonic())


def features(args: argparse.Namespace) -> Rows:
    frame = Frame(args.size, args.size)
    measured = measure_features(args.backbone, frame, args.device, seconds=0.5 if args.quick else 5)
    return [{"what": "features", **measured.to_json()}]


def learning(args: argparse.Namespace) -> Rows:
    frame = Frame(args.size, args.size)
    rows: Rows = []
    for precision in PRECISIONS:
        if args.device == "cpu" and precision == "16-mixed":
            rows.append({"what": "learning", "precision": precision, "failed": "fp16 is for GPUs"})
            continue
        for batch in (4,) if args.quick else (32, 128, 512):
            try:
                measured = measure_learning(
                    args.backbone, frame, args.device, precision=precision, batch=batch,
                    seconds=0.5 if args.quick else 4,
                )  # fmt: skip
                rows.append({"what": "learning", **measured.to_json()})
            except torch.OutOfMemoryError as error:
                rows.append(
                    {"what": "learning", "precision": precision, "batch": batch, "failed": first_line(error)}
                )
    return rows


def timm(args: argparse.Namespace) -> Rows:
    """The script of timm's authors; its model is the one that Lite0's packaged weights are for."""
    if args.timm is None:
        raise CatflapError(
            "No script was named.", "Clone huggingface/pytorch-image-models; --timm benchmark.py"
        )
    model = f"tf_{args.backbone}" if args.backbone.startswith("efficientnet_lite") else args.backbone
    rows: Rows = []
    for bench, amp in (("inference", ""), ("train", ""), ("inference", "bfloat16"), ("train", "bfloat16")):
        command = [
            sys.executable, str(args.timm), "--model", model, "--bench", bench, "--batch-size", "128",
            "--img-size", str(args.size), "--device", args.device,
            *(("--amp", "--amp-dtype", amp) if amp else ()),
        ]  # fmt: skip
        answer = subprocess.run(command, capture_output=True, text=True, timeout=left(args), check=False)
        text = answer.stdout.partition("--result")[2].strip()
        if answer.returncode or not text:
            rows.append({"what": f"timm {bench}", "failed": answer.stderr.strip()[-200:]})
            continue
        result = json.loads(text)
        result = result[0] if isinstance(result, list) else result
        rate = result[f"{'infer' if bench == 'inference' else 'train'}_samples_per_sec"]
        rows.append(
            {"what": f"timm {bench}", "precision": amp or "float32", "batch": 128, "per_second": rate}
        )
    return rows


def ddp(args: argparse.Namespace) -> Rows:
    """Photos a second of 1 and of all GPUs with gradients averaged, and their ratio over n."""
    count = torch.cuda.device_count() if args.device.startswith("cuda") else 2
    if count < 2:
        raise CatflapError("There is one GPU.", "Run it where there are several.")
    rates = {}
    for world in (1, count):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}",
                   __file__, "--ddp-worker", "--device", args.device, "--backbone", args.backbone,
                   "--size", str(args.size), *(["--quick"] * args.quick)]  # fmt: skip
        answer = subprocess.run(command, capture_output=True, text=True, timeout=left(args), check=False)
        if answer.returncode:
            raise CatflapError(answer.stderr.strip()[-200:], "Run it with fewer GPUs.")
        rates[world] = float(json.loads(answer.stdout.strip().splitlines()[-1])["per_second"])
    efficiency = rates[count] / (count * rates[1])
    return [{"what": "DDP", "gpus": count, "one": rates[1], "all": rates[count], "efficiency": efficiency}]


def ddp_worker(args: argparse.Namespace) -> None:
    """One process of `ddp`: steps of a network whose gradients are averaged."""
    local = int(os.environ["LOCAL_RANK"])
    on_gpu = args.device.startswith("cuda")
    torch.distributed.init_process_group("nccl" if on_gpu else "gloo")
    if on_gpu:
        torch.cuda.set_device(local)
    device = f"cuda:{local}" if on_gpu else "cpu"
    batch, steps = (
        (4, 3) if args.quick else (128, 60)
    )  # the same in each process, or they would wait for ever
    measured = measure_learning(
        args.backbone, Frame(args.size, args.size), device, batch=batch, seconds=0, fewest=steps,
        wrap=torch.nn.parallel.DistributedDataParallel,
    )  # fmt: skip
    total = torch.tensor([measured.per_second], device=device)
    torch.distributed.all_reduce(total)
    if torch.distributed.get_rank() == 0:
        print(json.dumps({"per_second": float(total)}))
    torch.distributed.destroy_process_group()


def run_verb(args: argparse.Namespace, *words: str, cache: str) -> dict[str, Any]:
    """A verb's JSON answer and its seconds."""
    start = time.monotonic()
    environment = {**os.environ, "CATFLAP_CACHE": cache}
    answer = subprocess.run(
        [*CATFLAP, *words, "--json"],
        capture_output=True,
        text=True,
        env=environment,
        timeout=left(args),
        check=False,
    )
    if answer.returncode:
        raise CatflapError(f"{words[0]}: {(answer.stdout or answer.stderr).strip()[-200:]}", "See above.")
    return {**json.loads(answer.stdout), "wall": round(time.monotonic() - start, 1)}


def prepared(args: argparse.Namespace, folder: str) -> str:
    """A Dataset of the real photos, or of some of them."""
    if not args.photos.exists():
        raise CatflapError(f"There are no photos at {args.photos}.", "Name some with --photos.")
    source = args.photos
    if args.quick:
        source = Path(folder) / "some"
        for label in sorted(path for path in args.photos.iterdir() if path.is_dir())[:2]:
            (source / label.name).mkdir(parents=True)
            for photo in sorted(label.iterdir())[:30]:
                (source / label.name / photo.name).write_bytes(photo.read_bytes())
    run_verb(args, "scan", str(source), "-o", f"{folder}/m", "--no-profile", cache=folder)
    run_verb(
        args, "prepare", f"{folder}/m", "-o", f"{folder}/d", "--size", str(args.size), *SHARES, cache=folder
    )
    return f"{folder}/d"


def photos(args: argparse.Namespace) -> Rows:
    rows: Rows = []
    with tempfile.TemporaryDirectory() as folder:
        dataset = prepared(args, folder)
        for recipe in ("head", "finetune"):
            words = ["train", dataset, "-o", f"{folder}/{recipe}", "--recipe", recipe,
                     "--device", args.device, "--backbone", args.backbone,
                     *(["--epochs", "1"] if recipe == "finetune" else [])]  # fmt: skip
            try:
                trained = run_verb(args, *words, cache=f"{folder}/cache-{recipe}")
            except (CatflapError, subprocess.SubprocessError) as error:  # the other recipe's row stays
                rows.append({"what": f"photos, {recipe}", "failed": first_line(error)})
                continue
            cost = trained["cost"]
            rows.append({
                "what": f"photos, {recipe}", "seconds": trained["wall"],
                "validation_accuracy": trained["metrics"]["accuracy"]["value"],
                "photo_passes": cost["photo_passes"], "peak_mb": cost["peak_memory_mb"],
            })  # fmt: skip
    return rows


def cifar(args: argparse.Namespace) -> Rows:
    """By benchmarks/cifar.py, which trains on the GPU where there is one."""
    if args.quick:
        raise CatflapError("CIFAR-10 takes minutes.", "Leave out --quick.")
    rows: Rows = []
    for line in ("--recipe head", "--recipe finetune --epochs 2",
                 "--recipe scratch --backbone resnet8 --size 32 --epochs 15"):  # fmt: skip
        words = line.split()
        command = [
            sys.executable,
            str(Path(__file__).with_name("cifar.py")),
            "--photos",
            str(args.cifar),
            *words,
        ]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=left(args), check=False)
        lines = [json.loads(line) for line in answer.stdout.splitlines() if line.startswith("{")]
        steps = {line["step"]: line for line in lines if "step" in line}
        if answer.returncode or "evaluate" not in steps:
            rows.append({"what": " ".join(words), "failed": (answer.stdout + answer.stderr).strip()[-200:]})
            continue
        rows.append({"what": f"CIFAR-10, {' '.join(words)}", "lines": [steps["train"], steps["evaluate"]]})
    return rows


def resume(args: argparse.Namespace) -> Rows:
    """Kill a training after it saved, start it again: it must end, and repeat few steps."""
    with tempfile.TemporaryDirectory() as folder:
        dataset = prepared(args, folder)
        words = ["train", dataset, "-o", f"{folder}/c", "--recipe", "finetune", "--device", args.device,
                 "--backbone", args.backbone, "--epochs", "4" if args.quick else "2"]  # fmt: skip
        environment = {**os.environ, "CATFLAP_CACHE": f"{folder}/cache"}
        process = subprocess.Popen([*CATFLAP, *words, "--json"], env=environment, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)  # fmt: skip
        while process.poll() is None and not _saved(Path(folder)):
            if left(args) <= 1.0:
                process.kill()
                raise CatflapError("Nothing was saved in time.", "Give more minutes.")
            time.sleep(0.05)
        ended_early = process.poll() is not None
        process.send_signal(signal.SIGKILL)
        process.wait()
        again = run_verb(args, *words, cache=f"{folder}/cache")
        before = again["cost"]["cached_photos"]
        return [{
            "what": "resume after SIGKILL", "killed": not ended_early, "photos_kept": before,
            "photos_learnt_again_or_first": again["cost"]["photo_passes"], "seconds": again["wall"],
        }]  # fmt: skip


def _saved(folder: Path) -> bool:
    return any(path.is_file() for path in folder.glob(".c.resume*"))


def rates(args: argparse.Namespace) -> Rows:
    """The file for `catflap plan --machine`."""
    frame = Frame(args.size, args.size)
    here = measure_rates(args.photos if args.photos.exists() else None, backbone=args.backbone, frame=frame)
    seconds = 0.5 if args.quick else 4
    own = measure_features(args.backbone, frame, args.device, seconds=seconds)
    learnt = measure_learning(
        args.backbone, frame, args.device, batch=4 if args.quick else 128, seconds=seconds
    )
    measured = {**here.rates, "features": own.per_second, "finetune": learnt.per_second}
    device = "cpu" if args.device == "cpu" else device_name(args.device)
    path = args.out / "rates.json"
    write_rates(path, replace(here, device=device, rates=measured))
    return [{"what": "rates", "file": str(path)}]


PARTS: dict[str, Callable[[argparse.Namespace], Rows]] = {
    "features": features, "learning": learning, "timm": timm, "ddp": ddp, "rates": rates, "photos": photos,
    "resume": resume, "cifar": cifar,
}  # fmt: skip


def table(device: str, found: dict[str, Rows]) -> str:
    """The rows as Markdown, for docs/concepts/training.md."""
    lines = [f"| {device} | precision | batch | result |", "|---|---|---|---|"]
    for part, rows in found.items():
        for row in rows:
            known = {"what", "precision", "batch"}
            rest = "; ".join(f"{name} {_short(value)}" for name, value in row.items() if name not in known)
            lines.append(
                f"| {row.get('what', part)} | {row.get('precision', '')} | {row.get('batch', '')} | {rest} |"
            )
    return "\n".join(lines) + "\n"


def _short(value: object) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else str(value).replace("|", "/")


if __name__ == "__main__":
    main()
