"""Tokenisers by path or by Hugging Face id."""

from pathlib import Path

from jaxseg import hub
from jaxseg.text.vocabulary import WEIGHTS, find_vocabulary, open_vocabulary
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
    return open_vocabulary(locate_vocabulary(source, revision, local_files_only))


def locate_vocabulary(
    source: str | Path, revision: str | None = None, local_files_only: bool | None = None
) -> Path:
    """The file of `load_tokenizer`'s source; where there is none, what `open_vocabulary` refuses.

    Raises:
      UserError: no such id.
    """
    path = Path(source).expanduser()
    local = path.exists() or path.suffix in (*WEIGHTS, ".txt", ".json") or path.is_absolute()
    if not local:
        path = hub.fetch_vocabulary(str(source), revision, local_files_only)
    return find_vocabulary(path) or path
