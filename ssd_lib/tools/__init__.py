"""SSD inside the evaluation tools: lm-eval's model `ssd`, inspect_ai's provider `ssd/…`.

These tools load us, by a name in pyproject.toml; nothing in the library imports this room, so it stands at the top of the stairs,
beside `cli`. A module imports its tool, which is an extra (`pip install 'ssd_lib[eval]'`); `answerer` is what they share.
"""
