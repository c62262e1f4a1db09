"""Train the Fashion-MNIST models of the zoo, and write the data files that the repository commits.

    python training/fashion_mnist.py fmnist_cnn --epochs 16
    python training/fashion_mnist.py fmnist_lstm --epochs 14
    python training/fashion_mnist.py fmnist_vit --epochs 14
    python training/fashion_mnist.py fmnist_mobile --epochs 10
    python training/fashion_mnist.py fmnist_vit --epochs 10 --more   # continues from the committed weights
    python training/fashion_mnist.py --data-only

The 60,000 training images are split by a fixed permutation: 55,000 train, 5,000 validate. Validation chooses the
epoch; the test images are read once, after the choice, to print the figure that the model card quotes.
The images come from the Debian package dataset-fashion-mnist (any folder with the four .gz files will do).
"""

import argparse
import gzip
import importlib
import json
import time
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.nn import functional

ASSETS = Path(__file__).resolve().parents[1] / "quantkit" / "assets"
MODELS = ("fmnist_cnn", "fmnist_vit", "fmnist_lstm", "fmnist_mobile")
PEAK = {"fmnist_cnn": 4e-3, "fmnist_vit": 1.5e-3, "fmnist_lstm": 4e-3, "fmnist_mobile": 0.4}  # of the learning rate
VALIDATION, CALIBRATION = 5_000, 2_000


def read_idx(path: Path) -> np.ndarray:
    """Read a gzipped IDX file of unsigned bytes (the MNIST format: two zeros, type 8, rank, big-endian sizes)."""
    raw = gzip.decompress(path.read_bytes())
    rank = raw[3]
    shape = np.frombuffer(raw, ">u4", rank, 4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * rank).reshape(shape)


def split(folder: Path):
    """Return (train images, labels), (validation images, labels); the order is fixed for ever."""
    images, labels = read_idx(folder / "train-images-idx3-ubyte.gz"), read_idx(folder / "train-labels-idx1-ubyte.gz")
    order = np.random.default_rng(2026).permutation(len(images))
    held, kept = order[:VALIDATION], order[VALIDATION:]
    return (images[kept], labels[kept]), (images[held], labels[held])


def write_data(folder: Path) -> None:
    """Commit the test set as it came and a calibration subset of the training part, 200 of every class."""
    out = ASSETS / "fashion_mnist"
    out.mkdir(parents=True, exist_ok=True)
    for name in ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"):
        (out / name).write_bytes((folder / name).read_bytes())
    (images, labels), _ = split(folder)
    chosen = np.concatenate([np.flatnonzero(labels == c)[: CALIBRATION // 10] for c in range(10)])
    chosen = np.random.default_rng(7).permutation(chosen)
    np.savez_compressed(out / "calibration.npz", images=images[chosen], labels=labels[chosen])


def tensors(images: np.ndarray, labels: np.ndarray):
    """Return images [n, 1, 28, 28] in 0..1 and labels [n]."""
    return torch.from_numpy(images.copy()).float().div(255).unsqueeze(1), torch.from_numpy(labels.astype(np.int64))


def augment(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Mirror half of the images and move each by up to two pixels."""
    n = len(x)
    flip = torch.rand(n, generator=generator) < 0.5
    x = torch.where(flip[:, None, None, None], x.flip(-1), x)
    padded = functional.pad(x, (2, 2, 2, 2))
    dy, dx = torch.randint(0, 5, (2, n, 1, 1), generator=generator)
    rows, columns = dy + torch.arange(28)[None, :, None], dx + torch.arange(28)[None, None, :]
    return padded[torch.arange(n)[:, None, None], 0, rows, columns].unsqueeze(1)


@torch.no_grad()
def accuracy(network, images, labels) -> float:
    """Return the share of right answers, in full precision."""
    network.eval()
    batches = zip(images.split(500), labels.split(500), strict=True)
    return sum((network(x).argmax(1) == y).sum().item() for x, y in batches) / len(labels)


def optimizer_for(name: str, network, peak: float):
    """Return AdamW, or for the depthwise network what its kind is trained with: plain momentum and little decay.

    MobileNets are trained without weight decay on depthwise filters and batch norms (Howard et al. 2017,
    arXiv:1704.04861, section 3.2: "very little or no weight decay on the depthwise filters").
    """
    if name != "fmnist_mobile":
        return torch.optim.AdamW(network.parameters(), lr=peak, weight_decay=0.05)
    free = [p for p in network.parameters() if p.ndim == 1 or p.shape[1] == 1]  # [channels, 1, 3, 3]: one input each
    decayed = [p for p in network.parameters() if all(p is not other for other in free)]
    groups = [{"params": decayed, "weight_decay": 4e-5}, {"params": free, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, lr=peak, momentum=0.9, nesterov=True)


def train(network, data, optimizer, *, epochs: int, peak: float, batch: int, seed: int, device: str):
    """Train with one cycle and an average of the weights; return the averaged network, best on validation."""
    (images, labels), (val_images, val_labels) = data
    average = torch.optim.swa_utils.AveragedModel(
        network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.999), use_buffers=True
    )
    steps = epochs * (len(images) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, steps, pct_start=0.2)
    generator = torch.Generator().manual_seed(seed)
    best, kept = 0.0, None
    for epoch in range(epochs):
        network.train()
        start, losses = time.time(), []
        for rows in torch.randperm(len(images), generator=generator).split(batch):
            if len(rows) < batch:
                continue
            x, y = augment(images[rows], generator).to(device), labels[rows].to(device)
            math = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)  # twice as fast to train on CPU
            with math, torch.autocast(device.split(":")[0], torch.bfloat16):
                loss = functional.cross_entropy(network(x).float(), y, label_smoothing=0.05)
                loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            average.update_parameters(network)
            losses.append(loss.item())
        score = accuracy(average.module, val_images.to(device), val_labels.to(device))
        said = f"epoch {epoch + 1}/{epochs} loss {np.mean(losses):.4f} validation {score:.4f}"
        print(f"{said} {time.time() - start:.0f} s", flush=True)
        if score >= best:
            best, kept = score, {k: v.detach().cpu().clone() for k, v in average.module.state_dict().items()}
    network.cpu().load_state_dict(kept)
    return network.eval(), best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", choices=[*MODELS, []], help="which models (none: all)")
    parser.add_argument("--data", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--more", action="store_true", help="continue from the committed weights, at half the peak")
    parser.add_argument("--data-only", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    write_data(args.data)
    if args.data_only:
        return
    data = [tensors(*part) for part in split(args.data)]
    test = tensors(read_idx(args.data / "t10k-images-idx3-ubyte.gz"), read_idx(args.data / "t10k-labels-idx1-ubyte.gz"))
    for name in args.models or MODELS:
        train_one(name, data, test, args)


def train_one(name: str, data, test, args) -> None:
    """Train one model and write its weights; with --more only if validation gained."""
    out = ASSETS / "weights" / f"{name}.safetensors"
    seed, before, peak = 0, {"epochs": "0", "validation": "0"}, PEAK[name]
    torch.manual_seed(seed)
    network = importlib.import_module(f"quantkit.zoo.{name}").network()
    if args.more:
        with safe_open(out, "pt") as file:
            before = file.metadata()
        network.load_state_dict(load_file(out), strict=False)  # what is missing counts batches of a norm
        seed, peak = int(before["epochs"]), peak / 2
    layout = torch.channels_last if name == "fmnist_mobile" else torch.preserve_format  # depthwise: a third faster
    network = network.to(device=args.device, memory_format=layout)
    settings = {"epochs": args.epochs, "peak": peak, "batch": 128, "seed": seed, "device": args.device}
    network, validation = train(network, data, optimizer_for(name, network, peak), **settings)
    if validation <= float(before["validation"]):
        print(
            f"{name}: validation {validation:.4f} is no gain over {before['validation']}: weights are kept as they were"
        )
        return
    card = {"epochs": int(before["epochs"]) + args.epochs, "seed": 0, "validation": round(validation, 4)}
    card["test"] = round(accuracy(network, *test), 4)
    weights = {k: v.contiguous() for k, v in network.state_dict().items() if "num_batches" not in k}
    out.parent.mkdir(exist_ok=True)
    save_file(weights, out, metadata={k: str(v) for k, v in card.items()})
    print(name, json.dumps(card), flush=True)


if __name__ == "__main__":
    main()
