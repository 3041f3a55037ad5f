"""`python -m model_export audit`: score the sentences of templates, and write the gaps."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from app.bundle.files import by_name, load_bundle
from model_export.audit.figure import MOST_ROWS, draw
from model_export.audit.gaps import gaps_of
from model_export.audit.report import FIGURE_FILE, FILES, REPORT_FILE, chosen, counts, tables, unit_of, write_report
from model_export.audit.scores import score_all
from model_export.audit.templates import read_templates
from model_export.errors import ExportError, few
from model_export.output.atomic import replacing
from model_export.output.place import check_output


@dataclass(frozen=True, slots=True)
class AuditOptions:
    """What is asked for on the command line."""

    bundle: Path
    templates: Path
    output: Path | None
    variant: str | None
    fail_above: float | None


def audit(options: AuditOptions, progress: Callable[[str], None]) -> tuple[str, str | None]:
    """Audit a bundle and write the folder of its report.

    Args:
        options: What is asked for.
        progress: Called with each step.

    Returns:
        What to print, in Markdown; and what is above the limit, None if nothing is, or there is no limit.

    Raises:
        BundleError: a file of the bundle is missing or changed.
        ExportError: the bundle cannot be audited, the templates are wrong, or the output cannot be written.
        OSError: a file cannot be read or written.
    """
    bundle = load_bundle(by_name(options.bundle))
    output = options.output or Path(f"audit-{bundle.name}")
    if output.resolve().is_relative_to(bundle.folder):
        raise ExportError(f"--output {output} is in the bundle, whose files stay as they are. Choose another folder.")
    check_output(output, "an audit", _is_audit)
    dimensions = read_templates(options.templates)
    model, scored = score_all(bundle, options.variant, dimensions, progress)
    progress("Measuring the gaps")
    gaps = [gap for one in scored for gap in gaps_of(one)]
    facts = [
        ("model", bundle.name),
        ("task", model.manifest.task),
        ("variant", model.variant.name),
        ("bundle", bundle.identity[:12]),
        (
            "templates",
            f"{options.templates.name}, sha256 {hashlib.sha256(options.templates.read_bytes()).hexdigest()[:12]}",
        ),
        ("sentences", str(sum(len(words) for one in scored for frames in one.sentences for words in frames))),
    ]
    shown = chosen(gaps)
    title = f"{bundle.name} ({model.variant.name}): gaps with 95% intervals"
    if len(shown) > MOST_ROWS:
        title += f", the first {MOST_ROWS} of {len(shown)}"
    with replacing(output) as folder:
        write_report(folder, facts, scored, gaps)
        draw(shown, unit_of(scored), title, folder / FIGURE_FILE)
    parts = [f"{one.dimension.name}\n\n{table}" for one, table in tables(scored, gaps)]
    text = "\n\n".join(
        [*parts, counts(gaps), f"Unit of the gaps: {unit_of(scored)}. The report is {output / REPORT_FILE}."]
    )
    limit = options.fail_above
    above = [] if limit is None else [gap for gap in gaps if gap.is_beyond(limit)]
    names = few([f"{gap.dimension}, {gap.group}, {gap.label} ({gap.gap:+.3f})" for gap in above])
    return (
        text,
        f"{len(above)} of {len(gaps)} gaps are beyond {limit:g} with all of their interval, or have none: {names}."
        if above
        else None,
    )


def _is_audit(folder: Path) -> bool:
    return all(path.name in FILES for path in folder.iterdir())
