"""JSON and YAML that people write, parsed alike everywhere, with limits that name themselves."""

from icm_fast.documents.json_text import parse_json
from icm_fast.documents.limits import MAX_DEPTH, MAX_DIGITS, NotYamlError
from icm_fast.documents.yaml_text import parse_old_yaml, parse_yaml, yaml_text

__all__ = [
    "MAX_DEPTH",
    "MAX_DIGITS",
    "NotYamlError",
    "parse_json",
    "parse_old_yaml",
    "parse_yaml",
    "yaml_text",
]
