"""Conversations as tests write them, and what is seen of them once they are rendered."""

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string", "description": "Where."}}},
        },
    }
]


def user(content: str, **more) -> dict:
    return {"role": "user", "content": content, **more}


def assistant(content: str, **more) -> dict:
    return {"role": "assistant", "content": content, **more}


def system(content: str) -> dict:
    return {"role": "system", "content": content}


def calling(arguments, content: str = "") -> dict:
    call = {"type": "function", "id": "call12345", "function": {"name": "get_weather", "arguments": arguments}}
    return assistant(content, tool_calls=[call])


def tool(content: str) -> dict:
    return {"role": "tool", "name": "get_weather", "tool_call_id": "call12345", "content": content}


CONVERSATIONS = {
    "one turn": [user("What is it?"), assistant("A cat.")],
    "system": [system("Be short."), user("What is it?"), assistant("A cat.")],
    "three turns": [user("a"), assistant("b"), user("c"), assistant("d"), user("b"), assistant("b")],
    "spaces": [user("  a "), assistant(" b \n"), user("\nc"), assistant("\n\nd  ")],
    "empty answer": [user("a"), assistant(""), user("c"), assistant("d")],
    "emoji": [user("héé 🎉"), assistant("日本 👩‍👩‍👧"), user("🎉"), assistant("🎉")],
    "markup": [user("<b>x</b>"), assistant("<b>y</b>"), user("[x"), assistant("[INST")],
}


TOOL_TALKS = {
    "a call and its answer": [user("a"), calling({"city": "Delft"}), tool("12 C"), assistant("12 degrees.")],
    "arguments as JSON text": [user("a"), calling('{"city": "Delft"}'), tool("12 C"), assistant("12 degrees.")],
    "words beside the call": [user("a"), calling({"city": "Delft"}, "Wait."), tool("12 C"), assistant("12 degrees.")],
    "more turns": [
        user("a"),
        calling({"city": "Delft"}),
        tool("12 C"),
        assistant("12 degrees."),
        user("b"),
        assistant("c"),
    ],
    "a call at the end": [user("a"), calling({"city": "Delft"})],
}


def trained_runs(rendered) -> list[str]:
    """The text of each unbroken run of trained tokens."""
    runs, is_open = [], False
    for piece in rendered.pieces():
        if piece.kind == "trained":
            runs[len(runs) - is_open :] = [(runs[-1] if is_open else "") + piece.text]
        is_open = piece.kind == "trained"
    return runs


def whole_text(rendered) -> str:
    return "".join(piece.text for piece in rendered.pieces())
