"""Tokenisers by path or by Hugging Face id."""

from pathlib import Path

from jaxseg import hub
from jaxseg.text.vocabulary import WEIGHTS, open_vocabulary
from jaxseg.text.wordpiece import WordPiece


def load_tokenizer(
    source: str | Path, revision: str | None = None, local_files_only: bool | None = None
) -> WordPiece:
    """The tokeniser of a file, of a folder or of a repository on the Hugging Face hub.

    What was fetched once is read from the hub's own cache.

    Args:
      source: whatever `open_vocabulary` takes, or an id as `google-bert/bert-base-uncased`.
      revision, local_files_only: as `hub.fetch` takes them; for ids.

    Raises:
      UserError: no such file, folder or id, or there is no vocabulary in it.
    """
    path = Path(source)
    if path.exists() or path.suffix in (*WEIGHTS, ".txt", ".json") or path.is_absolute():
        return open_vocabulary(path)
    return open_vocabulary(hub.fetch_vocabulary(str(source), revision, local_files_only))
