"""Worlds: yardsticks for pruning. Each is a set of pictures with questions whose answers are known, and a model that
answers them.

    drawn   synthetic scenes, plain and textured; its models are the embedded ones (`adafv.embedded`) and its own
    photo   photographs of things over photographs; its models are made of published weights, in the cache folder

`registry` has them by name, for comparisons; `captions` says how right their captions are.

A rule or a default is chosen on some worlds and judged on others. Worlds are tools of the repository: they are not in
the wheel, and nothing that a job runs imports them. CONTRIBUTING.md says how to add one.
"""
