"""The data gates: facts of the data as tables, Great Expectations suites as Python, and the gate that runs them.

    frames = image_facts(manifest, rejects, images)            # facts.py: what there is to check, opens no picture
    report = run_gate("images", frames, image_suites(params))  # gate.py: every expectation, evaluated or failed
    report.write(folder); report.check()                       # the report lies there before the stage fails

Importing a suite or the gate takes seconds (Great Expectations); `facts` does not.
"""
