"""Parts of `benchmarks.pipedream`: links of a stated rate, the model, what a rank does."""
