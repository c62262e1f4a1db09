"""Train the zoo's decoder language model on Python's documentation and library, and write the files we commit.

    python training/pydoc_gpt.py --docs /usr/share/doc/python3.11/html/_sources --tokens 12e6

Text: the reStructuredText sources of the Python 3.11 documentation (Debian package python3.11-doc; any copy of
CPython's `Doc` folder will do) and the standard library of the running interpreter, tests left out; both under the
PSF licence.
Whole documentation files are held out: of 20 parts (by the hash of their path) one is test, one validation. The
validation part chooses the checkpoint; the test part is read once, after the choice, for the figure on the model card.
"""

import argparse
import hashlib
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import ByteLevelBPETokenizer
from torch.nn import functional

from quantkit.zoo.pydoc_gpt import network as build

ASSETS = Path(__file__).resolve().parents[1] / "quantkit" / "assets"
VOCABULARY, CONTEXT, ITEM, ITEMS, CALIBRATION = 2048, 256, 128, 512, 256


def parts(docs: Path) -> dict[str, list[str]]:
    """Return the texts of each split; every file is whole in one of them."""
    out: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    for path in sorted(p for p in docs.rglob("*") if p.suffix in (".txt", ".rst") and p.is_file()):
        part = int(hashlib.sha256(path.relative_to(docs).as_posix().encode()).hexdigest(), 16) % 20
        name = {0: "test", 1: "validation"}.get(part, "train")
        out[name].append(path.read_text("utf-8", errors="replace"))
    library = Path(hashlib.__file__).parent
    for path in sorted(library.rglob("*.py")):
        if not {"site-packages", "test", "tests", "idle_test", "lib2to3"} & set(path.relative_to(library).parts):
            out["train"].append(path.read_text("utf-8", errors="replace"))
    return out


def items(tokenizer, texts: list[str], count: int, seed: int):
    """Return (ids [count, ITEM + 1], bytes of the ITEM predicted pieces [count], the text), drawn over all files."""
    rows, sizes = [], []
    for text in texts:
        ids = tokenizer.encode(text).ids
        for start in range(0, len(ids) - ITEM, ITEM + 1):
            row = ids[start : start + ITEM + 1]
            rows.append(row)
            sizes.append(len(tokenizer.decode(row[1:]).encode()))
    chosen = np.sort(np.random.default_rng(seed).permutation(len(rows))[:count])
    rows, sizes = np.array(rows, np.uint16)[chosen], np.array(sizes, np.int32)[chosen]
    return rows, sizes, [tokenizer.decode(row.tolist()) for row in rows]


def write_data(split) -> tuple:
    """Train the vocabulary on the training part, commit it with the test and calibration items; return ids by split."""
    out = ASSETS / "pydoc"
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(split["train"], vocab_size=VOCABULARY, min_frequency=2)
    tokenizer.save(str(out / "tokenizer.json"))
    test = items(tokenizer, split["test"], ITEMS, seed=1)
    calibration = items(tokenizer, split["train"][:200], CALIBRATION, seed=2)
    order = np.random.default_rng(3).permutation(ITEMS)  # so that the first n items are a fair sample of all
    arrays = {"test": test[0][order], "test_bytes": test[1][order]}
    np.savez_compressed(out / "tokens.npz", **arrays, calibration=calibration[0], calibration_bytes=calibration[1])
    (out / "test.json").write_text(json.dumps([test[2][i] for i in order], ensure_ascii=False, indent=0))
    encoded = {name: tokenizer.encode_batch(split[name]) for name in ("train", "validation")}
    ids = {name: np.concatenate([np.array(e.ids, np.uint16) for e in texts]) for name, texts in encoded.items()}
    return ids, test


@torch.no_grad()
def nats_per_token(network, rows: torch.Tensor, device: str) -> float:
    """Return the mean negative log likelihood of rows [n, t + 1], in full precision."""
    network.eval()
    total = 0.0
    for part in rows.split(16):
        part = part.to(device)
        logits = network(part[:, :-1])
        total += functional.cross_entropy(logits.flatten(0, 1), part[:, 1:].flatten(), reduction="sum").item()
    return total / rows[:, 1:].numel()


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Warm up over the first 2 %, then a cosine down to 3 % of the peak."""
    warm = max(1, steps // 50)
    if step < warm:
        return peak * (step + 1) / warm
    return peak * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm))))


def train(network, ids, *, tokens: float, batch: int, peak: float, device: str, checkpoint: Path):
    """Train with AdamW; return the state that was best on validation, and its loss. Continues from `checkpoint`."""
    network = network.to(device)
    decay = [p for p in network.parameters() if p.ndim > 1]
    rest = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.95))
    text = torch.from_numpy(ids["train"].astype(np.int64))
    length = (len(ids["validation"]) - 1) // 129 * 129
    held = torch.from_numpy(ids["validation"][:length].astype(np.int64)).view(-1, 129)[::7][:256]
    steps, generator = int(tokens // (batch * CONTEXT)), torch.Generator().manual_seed(0)
    first, best, kept = 0, math.inf, None
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        generator.set_state(state["generator"])
        first, best, kept = state["step"], state["best"], state["kept"]
    start, losses = time.time(), []
    for step in range(first, steps):
        network.train()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, peak)
        at = torch.randint(0, len(text) - CONTEXT - 1, (batch,), generator=generator)
        rows = text[at[:, None] + torch.arange(CONTEXT + 1)].to(device)
        with torch.autocast(device.split(":")[0], torch.bfloat16):
            logits = network(rows[:, :-1])
            loss = functional.cross_entropy(logits.flatten(0, 1).float(), rows[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if (step + 1) % 200 == 0 or step + 1 == steps:
            score = nats_per_token(network, held, device)
            said = f"step {step + 1}/{steps} loss {np.mean(losses):.4f} validation {score:.4f}"
            print(f"{said} {time.time() - start:.0f} s", flush=True)
            losses = []
            if score < best:
                best, kept = score, {k: v.detach().cpu().clone() for k, v in network.state_dict().items()}
            state = {"network": network.state_dict(), "optimizer": optimizer.state_dict()}
            state |= {"generator": generator.get_state(), "step": step + 1, "best": best, "kept": kept}
            torch.save(state, checkpoint)
    return kept, best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--docs", type=Path, default=Path("/usr/share/doc/python3.11/html/_sources"))
    parser.add_argument("--tokens", type=float, default=12e6)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--checkpoint", type=Path, default=Path("pydoc_gpt.checkpoint"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    split = parts(args.docs.resolve())
    ids, (rows, sizes, _) = write_data(split)
    print({k: len(v) for k, v in ids.items()}, flush=True)
    network = build()
    how = {"tokens": args.tokens, "batch": 8, "peak": 2e-3, "device": args.device, "checkpoint": args.checkpoint}
    kept, best = train(network, ids, **how)
    network.cpu().load_state_dict(kept)
    test = nats_per_token(network, torch.from_numpy(rows.astype(np.int64)), "cpu")
    bits = test * rows[:, 1:].size / sizes.sum() / math.log(2)
    card = {"tokens": int(args.tokens), "seed": 0, "validation_nats_per_token": round(best, 4)}
    card |= {"test_nats_per_token": round(test, 4), "test_bits_per_byte": round(bits, 4)}
    weights = {k: v.contiguous() for k, v in network.state_dict().items() if k != "head.weight"}
    out = ASSETS / "weights" / "pydoc_gpt.safetensors"
    out.parent.mkdir(exist_ok=True)
    save_file(weights, out, metadata={k: str(v) for k, v in card.items()})
    print(json.dumps(card), flush=True)


if __name__ == "__main__":
    main()
