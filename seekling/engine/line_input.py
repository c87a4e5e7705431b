"""One message typed on a terminal: editing, history, pasted line breaks kept. Ctrl-C is a key here, no signal to be lost."""

from collections.abc import Callable


def line_input() -> Callable[[str], str]:
    """A function from the prompt's text to what was typed. It raises KeyboardInterrupt at Ctrl-C, EOFError at Ctrl-D."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
    from prompt_toolkit.output import create_output
    from prompt_toolkit.output.vt100 import Vt100_Output

    keys = KeyBindings()

    @keys.add("enter")
    def send(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def break_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    output = create_output()
    if isinstance(output, Vt100_Output):
        output.enable_cpr = False  # where the cursor stands matters only to menus; some terminals never answer the question
    # Several lines, so that a paste with line breaks is shown as it is; Enter sends all the same.
    session: PromptSession[str] = PromptSession(multiline=True, key_bindings=keys, output=output, prompt_continuation="  ")
    return session.prompt
