"""The invented clinicians' words: what the slots of the sentence templates are filled with."""

PROBLEMS = (
    "chest pain", "shortness of breath", "atrial fibrillation", "hypertension", "hyperlipidemia",
    "type 2 diabetes", "left lower lobe pneumonia", "urinary tract infection", "lower extremity edema",
    "nausea", "vomiting", "syncope", "iron deficiency anemia", "hypothyroidism", "chronic back pain",
    "osteoarthritis", "asthma", "sleep apnea", "gastroesophageal reflux", "deep vein thrombosis",
    "hip fracture", "delirium", "hypokalemia", "fever", "a productive cough",
)  # fmt: skip
TREATMENTS = (
    "aspirin", "lisinopril", "metoprolol", "atorvastatin", "metformin", "furosemide", "heparin", "warfarin",
    "ceftriaxone", "azithromycin", "omeprazole", "levothyroxine", "prednisone", "albuterol", "gabapentin",
    "amlodipine", "insulin glargine", "potassium chloride", "ferrous sulfate", "acetaminophen",
)  # fmt: skip
TESTS = (
    "chest radiograph", "electrocardiogram", "echocardiogram", "complete blood count", "metabolic panel",
    "urinalysis", "blood culture", "troponin level", "head CT", "abdominal ultrasound", "stress test",
    "thyroid panel", "D-dimer", "arterial blood gas", "hemoglobin A1c",
)  # fmt: skip

DIAGNOSES = {
    "cardiac": (
        "myocardial infarction",
        "coronary occlusion",
        "ventricular dysfunction",
        "ischemic cardiomyopathy",
    ),
    "infectious": ("bacterial sepsis", "necrotizing cellulitis", "septic arthritis", "staphylococcal bacteremia"),
    "neurologic": ("cerebral stroke", "left hemiparesis", "focal seizures", "expressive aphasia"),
    "renal": ("tubular necrosis", "oliguric nephropathy", "uremic encephalopathy", "glomerular failure"),
}
"""Diagnoses that decide the label of a document, by label; no word of one label occurs under another."""

SERVICES = {
    "cardiac": "cardiology",
    "infectious": "infectious disease",
    "neurologic": "neurology",
    "renal": "nephrology",
}
"""The team that looks after each label's patients."""

SLOTS: dict[str, tuple[str, ...]] = {
    "problem": PROBLEMS,
    "treatment": TREATMENTS,
    "test": TESTS,
    "service": tuple(SERVICES.values()),
    "dose": (
        "5 mg",
        "10 mg",
        "20 mg",
        "25 mg",
        "40 mg",
        "50 mg",
        "81 mg",
        "100 mg",
        "250 mg",
        "500 mg",
        "1000 mg",
    ),
    "frequency": (
        "once daily",
        "twice daily",
        "three times daily",
        "every 8 hours",
        "every 12 hours",
        "at bedtime",
    ),
    "day": tuple(f"day {number}" for number in range(1, 10)),
    "age": tuple(str(age) for age in range(31, 90)),
    "sex": ("man", "woman"),
    "pressure": tuple(f"{high}/{high * 3 // 5}" for high in range(100, 171, 5)),
    "rate": tuple(str(rate) for rate in range(56, 121, 4)),
    "temperature": ("97.9", "98.4", "98.6", "99.1", "100.4", "101.2"),
    "saturation": tuple(str(percent) for percent in range(90, 100)),
    "duration": ("two days", "three days", "one week", "two weeks", "one month", "several months"),
    "result": (
        "unremarkable",
        "normal",
        "mildly abnormal",
        "unchanged",
        "pending at this time",
        "within normal limits",
    ),
    "family": ("mother", "father", "brother", "sister"),
    "home": ("alone", "with family", "with a spouse", "in a two story house", "in an apartment"),
    "work": ("teacher", "carpenter", "nurse", "farmer", "bus driver", "retired engineer", "cook"),
}
"""Slot name -> its possible fillings."""
