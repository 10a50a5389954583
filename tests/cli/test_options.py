"""Whatever JSON a stranger sends, a record of options is built or refused with a sentence."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato.errors import SfumatoError
from sfumato.tasks.create.options import CreateOptions
from sfumato.tasks.evaluate.options import EvaluateOptions
from sfumato.tasks.reduce.options import ReduceOptions
from sfumato.tasks.restore.options import RestoreOptions
from sfumato.tasks.search.options import IndexOptions, SearchOptions

RECORDS = (
    CreateOptions, RestoreOptions, ReduceOptions, IndexOptions, SearchOptions, EvaluateOptions,
)  # fmt: skip
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4), max_leaves=8)


@pytest.mark.parametrize("record", RECORDS, ids=lambda r: r.__name__)
def test_any_json(record):
    fields = dict.fromkeys(record.model_fields, VALUES)

    @settings(max_examples=150, deadline=None)
    @given(st.fixed_dictionaries({}, optional=fields))
    def holds(values):
        try:
            record(**values)
        except SfumatoError as error:
            assert str(error)

    holds()
