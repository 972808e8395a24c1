import panel as pn
class FilesPane:
    def __init__(self, desk): self.view=pn.Column("files")
