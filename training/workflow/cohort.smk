# Prediction of many CTs: the target predict_cohort. Included by the Snakefile.


def predicted(wildcards):
    if not SHARED:
        raise WorkflowError("predict_cohort needs a file system that all jobs see; run it locally or on Slurm.")
    if not COHORT:
        raise WorkflowError("predict_cohort needs the config's cohort: images, a folder, and model.")
    return [f"predictions/{name}" for name in COHORT]


def cohort_model(wildcards):
    """The model, where it is a path; a shipped one is known by its name."""
    model = config["cohort"]["model"]
    return [model] if "/" in model or Path(model).exists() else []


rule predict_cohort:
    input:
        predicted,


rule predict:
    input:
        image=lambda wildcards: str(COHORT[wildcards.case]),
        model=cohort_model,
    output:
        directory("predictions/{case}"),
    log:
        "logs/predictions/{case}.log",
    params:
        model=lambda wildcards, input: input.model or config["cohort"]["model"],
        options=config.get("cohort", {}).get("options", ""),
    threads: 4 if LARGE else 1
    resources:
        **GPU,
        mem="32GB" if LARGE else "6GB",
        runtime="2h",
    shell:
        TAKE_GPU
        + """
        {UNCERTAINTY} predict {input.image:q} --model {params.model:q} --output {output:q} --device {DEVICE} \
            {params.options} > {log:q} 2>&1
        """
