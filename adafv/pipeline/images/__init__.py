"""An image's bytes and pixels, from data that nobody trusts: `fetch` gets the bytes (`http` from public addresses only,
`transfer` within bounds), `decode` makes an RGB picture of them."""
