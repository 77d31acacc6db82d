"""What is shown: figures, token strips, the explorer and the check cells of the book. Nothing that computes imports this room.

plots             the book's figures (`style`: colours and marks; `report_figures`, `method_map`: two families of them)
strips            an answer as a strip of tokens, as HTML and text; `charts` and `rounds`: its tokens and rounds looked at closely
explorer          all of it as one ipywidgets box: `controls` and `buttons` are moved, `session` decodes once, `latest` lets the
                  newest request win, `static` shows the same on pages without a kernel
exercises         check cells

    from ssd_lib.show import plots
    from ssd_lib.show.explorer import explore

Strips, charts and rounds are pure functions of plain values, and escape every text that a model or a user wrote.
"""
