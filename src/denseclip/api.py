"""The commands as functions: `denseclip.label(...)` is `denseclip label ...`, with the same options and defaults.

Values take the place of texts (a list of words, a path in either form, one picture or several), results the place of
printed lines, and `UserError` that of an exit code.
"""

from denseclip.cli.detect import detect as detect
from denseclip.cli.distill import distill as distill
from denseclip.cli.evaluate import evaluate as evaluate
from denseclip.cli.export import export as export
from denseclip.cli.label import label as label
from denseclip.cli.train import train as train
