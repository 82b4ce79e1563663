"""Whether note text is where none may be: in the registry, in the folders of runs, in logs.

Any few words in a row of any note count. What is found is named by place, position and note, never quoted.
"""

from clinscale.scan.run import PHRASE_WORDS, Finding, ScanResult, scan

__all__ = ["PHRASE_WORDS", "Finding", "ScanResult", "scan"]
