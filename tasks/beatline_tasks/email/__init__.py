"""The family email: polls mailboxes over IMAP, stores what is new, and hands each message on."""

from __future__ import annotations

from typing import Final

from beatline.families import Family, Kind, OwnSchedule, Sealed

family: Final = Family(
    name="email",
    queue="email",
    modules=("beatline_tasks.email.jobs",),
    sealed=(Sealed("email_accounts", "token", ("mailbox",), "email account:{mailbox}", "tokens of mailbox {mailbox}"),),
    kinds=(
        Kind(
            name="mailbox",
            plural="mailboxes",
            model="beatline_tasks.email.mailbox:Mailbox",
            task="email.poll_account",
            actions={
                "check": "beatline_tasks.email.actions:check",
                "quarantine": "beatline_tasks.email.actions:list_quarantine",
                "reprocess": "beatline_tasks.email.actions:reprocess",
                "reset_cursor": "beatline_tasks.email.actions:reset_cursor",
            },
            fleet_actions={
                "status": "beatline_tasks.email.status:status",
                "import": "beatline_tasks.email.csvfile:import_file",
                "sync": "beatline_tasks.email.actions:sync",
            },
            removed="beatline_tasks.email.removal:removed",
        ),
    ),
    schedules=(OwnSchedule("beatline.sync-mailboxes", "email.sync_accounts", cron="* * * * *"),),
    routes={"email.process_message": "workflow", "email.finish_message": "workflow"},
)
