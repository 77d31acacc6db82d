"""What is shown: figures, token strips, the explorer and the check cells of the book. Nothing that computes imports this room.

plots             the book's figures (`style`: colours and marks; `report_figures`, `method_map`: two families of them)
strips            an answer as a strip of tokens, as HTML and text; `charts` and `rounds`: its tokens and rounds in detail
explorer          all of it in one ipywidgets box: the user moves `controls` and `buttons`, `session` decodes each answer once,
                  `latest` works on the newest request only, `static` shows the same on pages without a kernel
page              one answer as an HTML page of its own (`ssd chat --trace`)
exercises         check cells, tries, hints and the score; `quiz`: predictions and questions that a reader commits to

    from ssd_lib.show import plots
    from ssd_lib.show.explorer import explore

Strips, charts and rounds are pure functions of plain values, and escape every text that a model or a user wrote.
"""
