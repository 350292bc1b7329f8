"""`anefast serve`: a model behind OpenAI's completions and chat endpoints.

A request goes through these files in this order: app.py (HTTP), asking.py (what it may say),
worker.py (the thread that owns the device), answers.py (what is sent back). __main__.py is the
command. Starlette and uvicorn are the extra `serve`.
"""
