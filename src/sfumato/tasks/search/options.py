"""The options of `index` and `search`: one record per command, for command line and server."""

from __future__ import annotations

from sfumato.config import Options, option


class IndexOptions(Options):
    """How items are encoded. None keeps the setting of the index; a new index gets the default."""

    space: str | None = option(
        None,
        "How items are encoded: by pca:N, autoencoder:N or lsa:N, which are fitted to the data and "
        "give codes of length N; by a saved estimator, given by its folder; or by a text-to-image "
        "model, such as icons, which lets you find pictures by words. By default pca:30 for "
        "pictures and lsa:128 for documents.",
    )
    side: int | None = option(
        None, "Side in pixels to which pictures are resized; 32 by default.", ge=4, le=512
    )


class SearchOptions(Options):
    """Options of a search besides the query."""

    k: int = option(12, "Number of results.", flags="-k", ge=1, le=10_000)
    where: str | None = option(
        None, "SQL condition on the columns name, label and text, such as label = 'cat'."
    )
