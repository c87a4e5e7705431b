"""What each verb does: read arguments, call one room, print. Every heavy import is inside the function that needs it."""
