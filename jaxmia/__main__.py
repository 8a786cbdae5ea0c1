"""`python -m jaxmia` is `jaxmia`."""

from jaxmia.cli import main

main()
