"""From stored rows and verdicts to tables: rates and means with intervals, paired tests, Markdown, CSV and HTML.

    finished = build_report(["runs/x"])
    write_report(finished, "runs/x")

`numbers` estimates, `comparing` tests, `tables` arranges, `pages` writes, `hardened` holds published and hardened SSD
against what was to be reached. What a judge could not judge is counted beside every number, never guessed; which judge a
number is from stands in its title.
"""

from ssd_lib.experiments.report.comparing import mcnemar
from ssd_lib.experiments.report.hardened import agreement_page, hardened_page, settings_page
from ssd_lib.experiments.report.numbers import MEASURES, Line, Measure, groups
from ssd_lib.experiments.report.pages import (
    MAIN_TABLES,
    Report,
    build_report,
    report_html,
    report_markdown,
    write_report,
)
from ssd_lib.experiments.report.tables import Section, prefill_length

PAGES = {
    "main": lambda report: report_markdown(report, MAIN_TABLES),
    "hardened": hardened_page,
    "sweep": settings_page,
    "agreement": agreement_page,
}
"""What `ssd report` prints and puts into a Markdown page, by name: functions of a `Report`."""

__all__ = [
    "MAIN_TABLES",
    "MEASURES",
    "PAGES",
    "Line",
    "Measure",
    "Report",
    "Section",
    "build_report",
    "groups",
    "hardened_page",
    "mcnemar",
    "prefill_length",
    "report_html",
    "report_markdown",
    "settings_page",
    "write_report",
]
