"""The run card: README.md of an adapter's folder, as the Hugging Face hub shows it."""

from __future__ import annotations

from typing import Any


def run_card(record: dict[str, Any], *, summary: str) -> str:
    """Markdown with the hub's header, from a run's record.

    Args:
        record: what run.json says.
        summary: what the strategy trains, in words.
    """
    config = record["config"]
    trained = record["steps"] > 0
    header = ["---", f"base_model: {record['model']}"]
    if record["strategy"] == "lora":
        header += ["library_name: peft"]
    header += ["tags:", "- crosstask", f"- {record['strategy']}", "---"]
    rows = {
        "Base model": f"{record['model']} (weights {record['fingerprint'][:12]})",
        "Task": config["task"],
        "Trained": summary,
        "Examples": f"{record['data']['examples']} (sha256 {record['data']['sha256'][:12]})",
        "Prompt": {"chat": "the model's chat template", "plain": "plain: pictures, question, `Answer:`"}[
            record["template"]
        ],
        "Seed": str(config["seed"]),
    }
    if trained:
        last = record["curve"][-10:]
        rows |= {
            "Steps": f"{record['steps']} of {config['batch']} examples ({record['examples_seen']} seen)",
            "Optimiser": f"AdamW, learning rate {config['learning_rate']:g}, weight decay {config['weight_decay']:g}, "
            f"warm-up {config['warmup']:g}, {config['lr_scheduler']}",
            "LoRA": f"r {config['rank']}, alpha {config['alpha']:g}, dropout {config['dropout']:g}, "
            f"{', '.join(config['targets'])} of the language model",
            "Trained parameters": f"{record['trained_parameters']:,}",
            "Loss": f"{record['curve'][0]['loss']:.4f} at first, {sum(e['loss'] for e in last) / len(last):.4f} over "
            f"the last {len(last)} steps",
            "Size of the update": f"{record['update_norm']:.4g} (Frobenius norm)",
            "Time": f"{record['seconds']:.0f} s, {record['tokens']:,} tokens",
        }
        if record["strategy"] != "lora":
            del rows["LoRA"]
    lines = [*header, "", f"# {config['task']}: {record['strategy']}", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in rows.items()]
    lines += ["", f"Versions: {', '.join(f'{name} {version}' for name, version in record['versions'].items())}."]
    lines += ["", *_usage(record)]
    return "\n".join(lines) + "\n"


def _usage(record: dict[str, Any]) -> list[str]:
    if record["strategy"] == "freeze":
        return ["The base model as it is; there are no weights here."]
    lines = [
        "```python",
        "from interp.models.base import load_model",
        "from interp.tuning.adapters import attached",
        "",
    ]
    lines += [
        f"model = load_model({record['model']!r})",
        "with attached(model, {'tuned': '<this folder>'}) as adapters:",
    ]
    lines += ["    with adapters.use('tuned'):", "        ...", "```"]
    return lines
