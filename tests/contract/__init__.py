import pytest

# The suite is part of the package, where pytest does not look for asserts by itself.
pytest.register_assert_rewrite("serve_app.testing.contract")
