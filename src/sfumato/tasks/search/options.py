"""The options of `index` and `search`: one record each for library, command line and server."""

from __future__ import annotations

from sfumato.config import Options, option


class IndexOptions(Options):
    """How items become codes. None keeps the setting of the index; a new one gets the default."""

    space: str | None = option(
        None,
        "pca:30, autoencoder:30, lsa:128, fitted to the data; the folder of a saved estimator; or "
        "a text-to-image model, "
        "as icons, by which pictures are found by words. pca:30 for pictures and lsa:128 for "
        "documents by default.",
    )
    side: int | None = option(
        None, "Side in pixels that pictures are brought to; 32 by default.", ge=4, le=512
    )


class SearchOptions(Options):
    """Options of a search besides the query."""

    k: int = option(12, "How many results.", flags="-k", ge=1, le=10_000)
    where: str | None = option(None, "SQL over name, label and text, as label = 'cat'.")
