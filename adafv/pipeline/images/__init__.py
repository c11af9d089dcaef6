"""Untrusted image bytes and pixels: `fetch` gets the bytes (`http` from public addresses only), and `decode` turns them
into an RGB image. `run_input` finds the images of a run's labels again."""
