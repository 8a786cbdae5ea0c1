from tests import environment as environment
from tests.array_types import typechecker as typechecker
