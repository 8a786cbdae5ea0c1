from tests.array_types import typechecker as typechecker
