"""The page: look at data, start runs, watch, steer and compare them, in a browser (``phaseloom web``).

It reads run folders and appends to ``control.jsonl``; nothing else of a run is ever changed, and nothing of
the package depends on it. What is read and computed is in plain functions (`run_state`, `images`,
`catalogue`, `forms`, `job_queue`, `paths`, `security`); the panes are thin and need the extra ``web``.
"""
