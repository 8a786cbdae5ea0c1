"""`python -m jaxmia` is `jaxmia`."""

from jaxmia.cli.main import main

main()
