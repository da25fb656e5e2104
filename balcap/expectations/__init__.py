"""The data gates: facts of the data as tables, Great Expectations suites as Python, and the gate that runs them.

    frames = image_facts(manifest, rejects, images)        # facts.py: what there is to check, opens no picture
    report = run_gate(frames, image_suites(params))        # gate.py, images.py: every expectation evaluated, or failed
    write_report(folder, title, report, summary)           # report.py: lies there before the stage fails

Importing a suite or the gate takes seconds (Great Expectations); `facts` does not. One file per suite; a new check is
a column in `facts` and an expectation with severity and description in its suite.
"""
