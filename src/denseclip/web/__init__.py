"""The page: pictures, any words, answered from cached features.

`request`, `session` and `views` know nothing of the web; `app` and `server` are the thin layer above them; `static`
is the page itself.
"""
