"""What ``record.json`` holds: one schema for training, pruning, removal and the report."""

from steppe.record.check import checked, stamped
from steppe.record.schema import SCHEMA_VERSION, Measured, RunRecord, schema_table

__all__ = ["SCHEMA_VERSION", "Measured", "RunRecord", "checked", "schema_table", "stamped"]
