"""Conversations with tools, written shortly: what tests of labels, provenance and the guard of tools begin with."""

import json
from collections.abc import Mapping
from typing import Any

from headrace.core.request import Message, Role, TextPart, Tool, ToolCall
from headrace.core.trust import Effect
from headrace.trust.flow.settings import Kind, ToolRule
from headrace.trust.flow.tools import ToolBook


def user(text: str) -> Message:
    """What a user said."""
    return Message(role=Role.USER, parts=(TextPart(text),))


def system(text: str) -> Message:
    """What a client's system turn says."""
    return Message(role=Role.SYSTEM, parts=(TextPart(text),))


def said(text: str) -> Message:
    """What a model said."""
    return Message(role=Role.ASSISTANT, parts=(TextPart(text),))


def called(name: str, call_id: str = "c1", **arguments: Any) -> Message:
    """A call that a model made."""
    return Message(role=Role.ASSISTANT, tool_calls=(ToolCall(call_id, name, json.dumps(arguments)),))


def returned(result: Any, call_id: str = "c1") -> Message:
    """What came back."""
    text = result if isinstance(result, str) else json.dumps(result)
    return Message(role=Role.TOOL, parts=(TextPart(text),), tool_call_id=call_id)


def tool(name: str, description: str = "", /, **parameters: Any) -> Tool:
    """A declaration; parameters are their JSON schemas."""
    return Tool(name=name, description=description, parameters={"type": "object", "properties": parameters})


TEXT: Mapping[str, Any] = {"type": "string"}
MAIL = tool("send_mail", to=TEXT, subject=TEXT, body=TEXT)
PAY = tool("pay", recipient=TEXT, amount={"type": "number"})
PAGE = tool("get_page", url=TEXT)
CONTACTS = tool("find_contacts", query=TEXT)
TOOLS = (MAIL, PAY, PAGE, CONTACTS)
BOOK = ToolBook(
    {
        "send_mail": ToolRule(name="send_mail", effect=Effect.EGRESS, arguments={"to": Kind.RECIPIENT}),
        "pay": ToolRule(
            name="pay", effect=Effect.EGRESS, arguments={"recipient": Kind.RECIPIENT, "amount": Kind.AMOUNT}
        ),
        "get_page": ToolRule(name="get_page", effect=Effect.EGRESS, arguments={"url": Kind.URL}, source=("url",)),
        "invite": ToolRule(
            name="invite", effect=Effect.EGRESS, arguments={"user": Kind.RECIPIENT, "email": Kind.CONTACT}
        ),
        "find_contacts": ToolRule(
            name="find_contacts", effect=Effect.READ, endorses={"email": Kind.RECIPIENT}, names=("name",)
        ),
        "read_file": ToolRule(name="read_file", effect=Effect.READ, source=("path",)),
        "clock": ToolRule(name="clock", effect=Effect.READ, endorses={"*": Kind.TIME}, is_trusted=True),
        "payroll": ToolRule(name="payroll", effect=Effect.READ),
    }
)
