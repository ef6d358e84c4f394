"""For tests of this package and of plug-ins: small deterministic models, and the contract suite.

The models (`fakes`) need NumPy only. The suite (`contract`) needs pytest and is imported by name.
"""

from serve_app.testing.fakes import (
    DIMENSION,
    FakeDualEncoder,
    FakeModel,
    FakeOptions,
    FakePairScorer,
    fake_spec,
)

__all__ = [
    "DIMENSION",
    "FakeDualEncoder",
    "FakeModel",
    "FakeOptions",
    "FakePairScorer",
    "fake_spec",
]
