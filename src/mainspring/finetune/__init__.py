"""From a central model to a task: heads over an encoder, and what trains them."""
