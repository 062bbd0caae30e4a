"""The routes of the API: thin handlers around the modules of service."""

from fastapi import APIRouter

from service.routes import about, detect, jobs, results

router = APIRouter()
for module in (detect, jobs, results, about):
    router.include_router(module.router)
