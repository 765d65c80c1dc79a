"""``gatecore train TASK --help``: the settings of a task, with defaults and meaning."""

from typing import Any

import click
from click.shell_completion import CompletionItem

from gatecore.tasks.training.config import ELSEWHERE, TASKS, Config, ConfigError


class Command(click.Command):
    """A command whose help lists the settings of the task that is named before ``--help``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Remember what precedes the help, which is printed while parsing."""
        if any(word in ctx.help_option_names for word in args):
            ctx.meta[__name__] = self.make_parser(ctx).parse_args(list(args))[0]
        return super().parse_args(ctx, args)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the settings."""
        given = ctx.meta.get(__name__, {})
        preset = given.get("preset") or "quick"
        try:
            chosen = {name: given[name] for name in ("core", "backend") if given.get(name)}
            config = Config.of(given.get("task"), "UR", preset, **chosen)
        except ConfigError:  # no task, or a wrong one
            return
        elsewhere = {*ELSEWHERE, *(param.name for param in self.params)}
        for title, model in (("The task's settings", config.task), ("Settings of a run", config)):
            rows = [_row(name, field, getattr(model, name))
                    for name, field in type(model).model_fields.items()
                    if name not in elsewhere]  # fmt: skip
            with formatter.section(f"{title}, by default as in the preset {preset}"):
                formatter.write_dl(rows)
        formatter.write_paragraph()
        formatter.write_text(
            f"{type(config.task).downsize} units share a master gate (OM, UM), as in the paper; "
            "gatecore.mechanism in Python has downsize=1. --set mechanism.downsize=1 changes it, "
            "and --set mechanism.FIELD=VALUE any other field."
        )


def _row(name: str, field: Any, value: Any) -> tuple[str, str]:
    shown = "null" if value is None else value
    return f"--{name.replace('_', '-')}", f"{field.description or ''}  [{shown}]"


def complete(ctx: click.Context, parameter: click.Parameter, start: str) -> list[CompletionItem]:
    """The names of tasks, for the shell's completion."""
    return [CompletionItem(name) for name in TASKS if name.startswith(start)]
