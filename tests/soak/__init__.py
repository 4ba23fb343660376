"""A long run of everything that is real, through faults, and the proof afterwards that no call was
lost: ``make soak MINUTES=10``.
"""
