"""Let a language model go on writing where a prompt ends.

Examples:
    python tools/analysis/generate.py configs/transnormer/tnl-tiny_shakespeare.py WORK_DIR --prompt "ROMEO:"
    python tools/analysis/generate.py CONFIG CHECKPOINT --prompt-file start.txt --length 2000 --seed 1

Prints the prompt and what follows it. The same seed writes the same text.
"""

from collections.abc import Sequence
from pathlib import Path

from pointsuite.engine import command


def main(argv: Sequence[str] | None = None) -> None:
    parser = command.build_parser(__doc__)
    parser.add_argument(
        "checkpoint", help="a path, a work dir (its last checkpoint), or a URL with its digest (#sha256=...)"
    )
    begin = parser.add_mutually_exclusive_group()
    begin.add_argument("--prompt", default="\n", help="text to begin with (default: a line break)")
    begin.add_argument("--prompt-file", type=Path, metavar="FILE", help="text file to begin with")
    parser.add_argument("--length", type=command.whole(1), default=500, help="tokens to write (default: 500)")
    parser.add_argument("--temperature", type=float, default=0.8, help="0: no chance (default: 0.8)")
    parser.add_argument("--top-k", type=command.whole(1), help="choose among so many tokens (default: all)")
    parser.add_argument("--device", help="(default: a GPU where there is one)")
    args = parser.parse_args(argv)
    from dense.sequence import Generator
    from pointsuite.engine.files import read_text

    cfg = command.load_config(args)
    write = Generator(cfg, args.checkpoint, args.device)
    prompt = args.prompt if args.prompt_file is None else read_text(args.prompt_file)
    seed = cfg.randomness.get("seed") or 0
    print(prompt + write(prompt, args.length, args.temperature, args.top_k, seed))


if __name__ == "__main__":
    command.run(main)
