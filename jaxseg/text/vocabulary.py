"""The tokeniser of a file or folder on disk."""

import shutil
from pathlib import Path

from jaxseg.errors import UserError
from jaxseg.text.wordpiece import WordPiece

# The first says how text is normalised, the second leaves it to custom.
NAMES = ("tokenizer.json", "vocab.txt")
WEIGHTS = (".pth", ".pt", ".ckpt", ".bin", ".safetensors", ".npz", ".h5", ".msgpack")
ALLOWED = (
    "a vocab.txt, a tokenizer.json, a folder that holds one of them, or a Hugging Face id "
    "(google-bert/bert-base-uncased is what Grounding DINO reads)"
)


def find_vocabulary(folder: Path) -> Path | None:
    """The file in a folder that a tokeniser is read from, if there is one."""
    return next((folder / name for name in NAMES if (folder / name).is_file()), None)


def keep_vocabulary(source: str | Path, folder: Path) -> None:
    """Copy a vocabulary's file into a folder, under the name that `find_vocabulary` knows."""
    as_json, as_lines = NAMES
    shutil.copyfile(source, folder / (as_json if Path(source).suffix == ".json" else as_lines))


def open_vocabulary(path: str | Path) -> WordPiece:
    """The tokeniser of a `vocab.txt`, a `tokenizer.json`, or of a folder that holds one.

    Raises:
      UserError: there is none; says what may be given instead.
    """
    path = Path(path)
    if path.is_dir():
        if (found := find_vocabulary(path)) is None:
            raise UserError(
                f"the folder {path} holds neither {' nor '.join(NAMES)}; give {ALLOWED}"
            )
        return WordPiece(found)
    if path.suffix in WEIGHTS:
        raise UserError(
            f"{path} holds weights; official checkpoints hold no vocabulary: give {ALLOWED}"
        )
    if not path.is_file():
        raise UserError(f"there is no vocabulary {path}; give {ALLOWED}")
    return WordPiece(path)
