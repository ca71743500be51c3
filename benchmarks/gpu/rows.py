"""What the parts of the GPU run measure."""

from typing import Any

Row = dict[str, Any]
"""A line of a table, as JSON holds it: labels, and figures or a note in their place."""
