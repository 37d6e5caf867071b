"""``vsync simulate``: whole clusters from seeds, with every fault, held against the properties."""

import rich_click as click


@click.command()
def simulate() -> None:
    """x"""
