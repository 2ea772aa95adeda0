"""Who is asked, in which order, and why: values in, values out."""
